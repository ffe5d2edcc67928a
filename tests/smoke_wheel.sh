#!/usr/bin/env bash
# Installs a wheel into a fresh environment, away from the checkout, and runs what a newcomer runs first.
set -euo pipefail
wheel=$(realpath "$1")
constraints=$(realpath "$(dirname "$0")/../constraints.txt")
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
"${PYTHON:-python3}" -m venv env
pins=()
command -v nvidia-smi > /dev/null || pins=(-c "$constraints")
env/bin/python -m pip install --quiet --disable-pip-version-check "${pins[@]}" "$wheel"
env/bin/fct-fast doctor
env/bin/fct-fast demo --quick --out out
test -s out/report.html
echo "the wheel works in a fresh environment"
