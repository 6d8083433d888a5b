#!/usr/bin/env bash
# The suite under the lowest versions that pyproject.toml allows, in an environment of its own; Python and pip are enough.
# Not tests/operators: which operators there are, and at which opset, is a matter of the onnx and onnxruntime installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=$(mktemp -d)
trap 'rm -rf "$venv"' EXIT
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet uv
export VIRTUAL_ENV="$venv"
"$venv/bin/uv" pip install --quiet --resolution lowest-direct -e ".[cpu,test]"
# Versions that old warn of what they use themselves, so that a warning is no error here.
"$venv/bin/python" -m pytest -q -n 2 -W ignore --ignore tests/operators --ignore tests/benchmarks "$@"
