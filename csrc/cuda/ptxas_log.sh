#!/bin/sh
# Compiler launcher: runs nvcc and keeps what it says beside the object, since ptxas reports registers, spills and local
# memory there and nowhere else. tests/cuda/test_gates.py reads these files.
object=
previous=
for argument in "$@"; do
  [ "$previous" = "-o" ] && object=$argument
  previous=$argument
done
[ -n "$object" ] || exec "$@"
"$@" 2> "$object.ptxas.log"
status=$?
grep -v '^ptxas info' "$object.ptxas.log" | grep -Ev '^ +[0-9]+ bytes (stack frame|gmem)' >&2
exit $status
