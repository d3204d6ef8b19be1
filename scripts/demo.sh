#!/usr/bin/env bash
# Fine-tune a small model in several ways on the CPU and report what each learned and forgot.
#
#     scripts/demo.sh [workdir]    default: runs/quickstart
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh
exec "${VENV:-.venv}/bin/python" -m experiments.compare --config configs/quickstart.py --workdir "${1:-runs/quickstart}"
