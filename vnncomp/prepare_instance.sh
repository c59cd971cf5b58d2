#!/usr/bin/env bash
# VNN-COMP: prepare_instance.sh v1 CATEGORY NETWORK.onnx PROPERTY.vnnlib. Status 0 if the instance is to be run.
set -euo pipefail

if [[ $# -lt 4 || "$1" != v1 ]]; then
    echo "usage: prepare_instance.sh v1 CATEGORY NETWORK.onnx PROPERTY.vnnlib" >&2
    exit 2
fi
for file in "$3" "$4"; do
    if [[ ! -r "$file" ]]; then
        echo "$file: cannot be read" >&2
        exit 1
    fi
done
