#!/usr/bin/env bash
# Run the tests in the project's environment; arguments go to pytest.
#
#     scripts/test.sh                   all but the slow ones
#     scripts/test.sh tests/optim -x    some
#     scripts/test.sh -m slow           the slow ones
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh
exec "${VENV:-.venv}/bin/python" -m pytest "$@"
