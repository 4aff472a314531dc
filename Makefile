# From nothing on a machine with Python 3.11: `make demo` and `make test` create .venv, install, and run.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test slow tensors exhaustive lint benchmark package lowest docs clean

demo: $(VENV)/installed-demo
	$(BIN)/python examples/own_structure.py

test: $(VENV)/installed-test
	$(BIN)/python -m polytopes.precompile
	$(BIN)/python -m pytest -m "not slow and not exhaustive" --numprocesses auto

slow: $(VENV)/installed-test
	$(BIN)/python -m pytest -m "slow and not exhaustive" --numprocesses auto

# What answers without Numba: the tensor code beside every compiled kernel.
tensors: $(VENV)/installed-test
	SST_CVX_NATIVE=0 $(BIN)/python -m pytest -m "not slow and not exhaustive" --numprocesses auto tests/test_fuzz.py \
		tests/test_path_sums.py tests/test_rankings_and_matchings.py tests/test_soft_sorting.py tests/test_trees.py tests/test_value.py

exhaustive: $(VENV)/installed-test
	$(BIN)/python -m pytest -m exhaustive --numprocesses auto

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/pyright --pythonpath $(BIN)/python

benchmark: $(VENV)/installed-benchmark
	$(BIN)/python -m benchmarks

# The wheel and the sdist, checked; then the wheel by itself: outside the repository, without constraints.
package: $(VENV)/torch
	$(PIP) build twine
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	tests/package.sh $(PYTHON) dist/*.whl

# The lowest versions that pyproject.toml admits.
lowest:
	tests/package.sh $(PYTHON) . lowest

# The site, from nothing; warnings are errors.
docs: $(VENV)/installed-docs
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html

# torch first and by its pinned version: a looser range can pull gigabytes of CUDA.
$(VENV)/torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(shell grep '^torch==' constraints.txt)
	touch $@

$(VENV)/installed-demo: $(VENV)/torch pyproject.toml
	$(PIP) --editable '.[examples]'
	touch $@

$(VENV)/installed-test: $(VENV)/torch pyproject.toml
	$(PIP) --editable '.[dev,examples,native]'
	@# Moreau has wheels for Linux x86-64 and macOS arm64 only; its tests are skipped without it.
	-$(PIP) --editable '.[moreau]'
	touch $@

$(VENV)/installed-benchmark: $(VENV)/torch pyproject.toml
	$(PIP) --editable '.[benchmarks,native]'
	-$(PIP) --editable '.[moreau]'
	touch $@

$(VENV)/installed-docs: $(VENV)/torch pyproject.toml
	$(PIP) --editable '.[docs,examples]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis dist docs/_build
