#!/usr/bin/env bash
# VNN-COMP: install_tool.sh v1. Installs ibpc into a virtual environment beside this script.
set -euo pipefail

if [[ $# -lt 1 || "$1" != v1 ]]; then
    echo "usage: install_tool.sh v1" >&2
    exit 2
fi
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python3 -m venv "$here/venv"
"$here/venv/bin/python" -m pip install --quiet --upgrade pip
"$here/venv/bin/python" -m pip install --quiet "$here/.."
"$here/venv/bin/python" -m ibpc --help >/dev/null
