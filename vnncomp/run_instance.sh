#!/usr/bin/env bash
# VNN-COMP: run_instance.sh v1 CATEGORY NETWORK.onnx PROPERTY.vnnlib RESULT SECONDS.
# RESULT is left with one of sat, unsat, unknown, timeout, error; a counterexample follows sat.
set -euo pipefail

if [[ $# -lt 6 || "$1" != v1 ]]; then
    echo "usage: run_instance.sh v1 CATEGORY NETWORK.onnx PROPERTY.vnnlib RESULT SECONDS" >&2
    exit 2
fi
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python="${IBPC_PYTHON:-$here/venv/bin/python}"
network="$3" property="$4" result="$5" limit="$6"

# What starting Python and reading the network may take of the time.
start=5
seconds="$(awk -v limit="$limit" -v start="$start" 'BEGIN { print (limit > 2 * start) ? limit - start : limit / 2 }')"

echo timeout >"$result"
status=0
timeout --signal=KILL "$limit" "$python" -m ibpc certify "$network" --vnnlib "$property" --timeout "$seconds" \
    --result "$result" || status=$?
if [[ "$status" -ne 0 && "$status" -ne 137 ]]; then
    echo error >"$result"
fi
