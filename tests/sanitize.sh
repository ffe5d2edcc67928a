#!/usr/bin/env bash
# The C++ tests under ASan + UBSan and under TSan, then the Python tests of the kernels on a module built with
# ASan + UBSan. No suppressions; leaks are looked for in the C++ tests, where no interpreter keeps memory on purpose.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/.venv/bin
export PATH="$bin:$PATH"

for kinds in address,undefined thread; do
  folder=build/sanitize-${kinds%%,*}
  cmake -S . -B "$folder" -G Ninja -DFCT_PYTHON=OFF -DFCT_TESTS=ON -DFCT_SANITIZE=$kinds -DCMAKE_BUILD_TYPE=RelWithDebInfo > /dev/null
  cmake --build "$folder"
  ctest --test-dir "$folder" --output-on-failure
done

folder=build/sanitize-python
cmake -S . -B "$folder" -G Ninja -DFCT_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=RelWithDebInfo \
  -DPython_EXECUTABLE="$bin/python" -Dpybind11_DIR="$("$bin/python" -m pybind11 --cmakedir)" > /dev/null
cmake --build "$folder"
# A copy of the package with the instrumented module in it; the editable install would shadow it, so no site hooks (-S), and
# the checkout's own package is kept off the path (-P).
rm -rf "$folder/site"
mkdir -p "$folder/site"
cp -r fct_fast "$folder/site/"
cp "$folder"/_native*.so "$folder/site/fct_fast/kernels/"
packages=$("$bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
runtime="$(gcc -print-file-name=libasan.so):$(gcc -print-file-name=libubsan.so):$(gcc -print-file-name=libstdc++.so)"
LD_PRELOAD=$runtime ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc PYTHONPATH="$folder/site:$packages" \
  "$bin/python" -S -P -m pytest -q -p no:cacheprovider tests/test_upgrader*.py tests/test_search.py tests/evaluation \
  -k "edges or bad_input or strided or sixteen or structure or integers or ties or paths or rank or curve"
