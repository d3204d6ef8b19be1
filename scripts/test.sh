#!/usr/bin/env bash
# Run the tests in the project's environment; arguments go to pytest.
#
#     scripts/test.sh                   all but the slow ones, in two processes (WORKERS=4: in four)
#     scripts/test.sh tests/optim -x    some
#     scripts/test.sh -m slow           the slow ones
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh
pytest=("${VENV:-.venv}/bin/python" -m pytest)
if [ $# -gt 0 ]; then
  exec "${pytest[@]}" "$@"
fi

# Compiling keeps one core busy, so a process for each core; a file stays in one of them, since its
# fixtures and compiled programs are its own. A process that dies ends the run: xdist, told to keep
# files together, may begin it anew and wait for its last tests for ever.
exec "${pytest[@]}" -q -n "${WORKERS:-2}" --dist loadfile --max-worker-restart=0 tests
