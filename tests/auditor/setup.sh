#!/bin/sh
# Makes a Python environment with the driver that the auditor reads PostgreSQL with, and prints its
# interpreter: `sh tests/auditor/setup.sh target/auditor`. Made once; made again when the pins change.
# A second argument names other pins than the auditor's.
# Needs Python 3.11 or later with venv (Debian: apt-get install python3-venv).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
venv=${1:?the directory of the environment}
pins=${2:-$here/requirements.txt}
made_from="$venv/requirements.txt"

if ! cmp -s "$pins" "$made_from"; then
    rm -rf "$venv"
    "${PYTHON:-python3}" -m venv "$venv" >&2
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
        --only-binary :all: --require-hashes -r "$pins" >&2
    # Last, so that an environment that was left half made is made again.
    cp "$pins" "$made_from"
fi
echo "$venv/bin/python"
