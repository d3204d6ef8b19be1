#!/usr/bin/env bash
# Make a virtual environment with ftjax and all it needs to run and be tested.
#
#     scripts/setup.sh                     .venv, with the newest usable python on the PATH
#     PYTHON=python3.12 scripts/setup.sh   with this one
#     VENV=other-venv scripts/setup.sh     in another folder
#     EXTRAS=dev,cuda scripts/setup.sh     with other extras of pyproject.toml (default: dev)
#
# Runs again at no cost: the stamp in the environment says what it was made from.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV="${VENV:-.venv}"
EXTRAS="${EXTRAS:-dev}"

fail() {
  echo "setup: $*" >&2
  exit 1
}

usable() { # A shim may exist and fail, so run it. venv and ensurepip are apart on some systems.
  "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
  local candidate
  if [[ -n "${PYTHON:-}" ]]; then
    usable "$PYTHON" || fail "PYTHON=$PYTHON is no Python >= 3.11 with venv"
    echo "$PYTHON"
    return
  fi
  for candidate in python3.13 python3.12 python3.11 python3 python; do
    if usable "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  fail "no Python >= 3.11 with venv on the PATH; install one or set PYTHON=/path/to/python"
}

wanted() { # What the environment is made from, as a checksum.
  { cat pyproject.toml constraints/*.txt; echo "$EXTRAS"; pwd; } | cksum
}

version() {
  "$1" -c 'import sys; print(sys.version)' 2>/dev/null
}

kept() { # The environment that is there works, and is of the Python asked for.
  usable "$VENV/bin/python" &&
    [[ -z "${PYTHON:-}" || "$(version "$PYTHON")" == "$(version "$VENV/bin/python")" ]]
}

stamp="$VENV/ftjax-stamp"
if kept && [[ -f "$stamp" && "$(cat "$stamp")" == "$(wanted)" ]]; then
  exit 0
fi

if ! kept; then
  python="$(find_python)"
  echo "setup: $VENV from $("$python" --version) ($(command -v "$python"))" >&2
  "$python" -m venv --clear "$VENV"
fi
rm -f "$stamp"

# jax 0.11 needs Python 3.12, so 3.11 has versions of its own.
constraints=constraints/py312.txt
if "$VENV/bin/python" -c 'import sys; sys.exit(sys.version_info >= (3, 12))'; then
  constraints=constraints/py311.txt
fi

echo "setup: installing ftjax[$EXTRAS] with $constraints (minutes, the first time)" >&2
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check \
  --constraint "$constraints" --editable ".[$EXTRAS]" ||
  fail "pip could not install the dependencies; see above, and check the network or the pip index"
wanted >"$stamp"
