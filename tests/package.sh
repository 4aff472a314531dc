#!/usr/bin/env bash
# What is installed, in an empty environment outside the repository: tests/package.sh PYTHON WHEEL_OR_FOLDER [lowest]
# "lowest": the lowest versions that pyproject.toml admits (of torch, which has no small old build everywhere, the pinned one).
set -euo pipefail
python=$1 what=$(realpath "$2") how=${3:-}
root=$(realpath "$(dirname "$0")/..")
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
"$python" -m venv venv
pip="venv/bin/python -m pip install --quiet --disable-pip-version-check"
$pip "$(grep '^torch==' "$root/constraints.txt")"
if [ "$how" = lowest ]; then
  "$python" "$root/tests/lowest.py" "$root/pyproject.toml" > lowest.txt
  cat lowest.txt
  $pip --constraint lowest.txt "$what"
else
  $pip "$what"
fi
cp "$root/tests/smoke.py" .
venv/bin/python smoke.py
venv/bin/sst-cvx info
venv/bin/sst-cvx check "polytopes:KSubset(4, 2)" --regularizer euclidean binary
! venv/bin/sst-cvx describe polytopes:Nothing
for extra in native plot examples; do
  $pip "$what[$extra]"
  venv/bin/python smoke.py
done
