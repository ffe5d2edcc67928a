# make demo, make test: each makes .venv, installs the pinned requirements and the compiled package, and runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo-out
JOBS ?= $(shell nproc)
# With a GPU the user's own torch choice stands; without one the pins keep CUDA packages out.
CONSTRAINTS := $(if $(shell command -v nvidia-smi),,-c constraints.txt)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS)
SOURCES := CMakeLists.txt pyproject.toml $(shell find csrc -type f)
FORMATTED = $$(git ls-files 'csrc/*.?pp' 'csrc/*.cu' 'csrc/*.h' 'tests/csrc/*.?pp')
# CuTe's headers, what tests/cuda/test_fragments.py holds fragment maps against; what the package depends on is for
# compiling kernels from Python.
CUTE := nvidia-cutlass==4.2.0.0
PATHS := PATH="$(CURDIR)/$(BIN):$$PATH"

.PHONY: help build demo test test-cpp lint format wheel bench sanitize stress clean

help:
	@echo "make demo      the demo: train, backfill, search, report (about three minutes with the set-up)"
	@echo "make test      all tests, C++ and Python"
	@echo "make lint      ruff, mypy, clang-format"
	@echo "make wheel     build dist/*.whl and smoke-test it in a fresh environment"
	@echo "make bench     benchmarks beside their peers, into benchmarks/results/ (on a quiet machine)"
	@echo "make sanitize  C++ and kernel tests under ASan + UBSan and under TSan"
	@echo "make stress    long crash campaigns"
	@echo "make build     only the environment and the compiled package"

build: $(VENV)/.built

$(VENV)/.tools: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) scikit-build-core pybind11 cmake ninja
	@touch $@

# Editable: Python files are used where they are; the module is compiled anew whenever a C++ file changed.
$(VENV)/.built: $(VENV)/.tools $(SOURCES)
	$(PATHS) $(PIP) --no-build-isolation -e ".[dev]"
	@touch $@

$(VENV)/.cute: $(VENV)/.tools
	$(PIP) --no-deps $(CUTE)
	@touch $@

demo: build
	$(BIN)/fct-fast demo --out $(OUT)

test: build $(VENV)/.cute test-cpp
	$(BIN)/python -m pytest -q -m "not stress" -n $(JOBS) --maxprocesses 8 --dist loadfile

test-cpp: $(VENV)/.tools
	$(PATHS) cmake -S . -B build/tests -G Ninja -DFCT_PYTHON=OFF -DFCT_CUDA=OFF -DFCT_TESTS=ON -DFCT_WERROR=ON > /dev/null
	$(PATHS) cmake --build build/tests -j $(JOBS)
	$(PATHS) ctest --test-dir build/tests --output-on-failure

lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(FORMATTED)

format: build
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(FORMATTED)

wheel: $(VENV)/.tools
	rm -rf dist
	$(PATHS) $(BIN)/python -m pip wheel --quiet --no-build-isolation --no-deps -w dist .
	tests/smoke_wheel.sh dist/*.whl

bench: build
	$(PIP) onnx onnxruntime
	$(BIN)/python -m benchmarks

sanitize: build
	tests/sanitize.sh

stress: build
	$(BIN)/python -m pytest -q -m stress

clean:
	rm -rf $(VENV) build dist $(OUT)
