#!/usr/bin/env bash
# One command for a fresh machine with an NVIDIA GPU, CuPy, NumPy and pytest:
#
#     bash benchmarks/gpu_session.sh [--out FOLDER] [--minutes 9]
#
# Runs the tests on the GPU, compute-sanitizer if it is there, and the benchmark of CPU against GPU, with
# PyTorch beside it if it is installed. FOLDER (gpu-session by default) gets gpu_session.json, table.txt,
# plots and the tests' output; each is rewritten as results come, so that a stopped session leaves what it had.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH="$PWD:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" benchmarks/gpu_session.py "$@"
