#!/usr/bin/env bash
# Run the tests in the project's environment; arguments go to pytest.
#
#     scripts/test.sh                   all but the slow ones, in two processes
#     scripts/test.sh tests/optim -x    some
#     scripts/test.sh -m slow           the slow ones
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh
pytest=("${VENV:-.venv}/bin/python" -m pytest)
if [ $# -gt 0 ]; then
  exec "${pytest[@]}" "$@"
fi

# Compiling keeps one core busy, so two halves take little more than half of the time.
own=(tests/laws tests/objectives tests/ops tests/core tests/optim tests/penalties tests/adapters
  tests/models tests/evals tests/sampling)
"${pytest[@]}" -q "${own[@]}" &
half=$!
failed=0
"${pytest[@]}" -q tests "${own[@]/#/--ignore=}" || failed=$?
wait "$half" || failed=$?
exit "$failed"
