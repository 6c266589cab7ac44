PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN ?= runs/two_moons
# Two processes of pytest, see tests/conftest.py.
TWO := -n 2 --dist loadgroup

.PHONY: run test test-all bench bench-estimators chaos venv lint clean

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || (echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 1)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the packages of constraints.txt into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch==2.13.0" -c constraints.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]" -c constraints.txt
	@touch $@

run: venv
	@$(BIN)/sbiflow run configs/two_moons.yaml -o $(RUN)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest $(TWO)

test-all: lint
	$(BIN)/python -m pytest $(TWO) -m "slow or not slow"

chaos: venv
	$(BIN)/python -m benchmarks.chaos

bench: venv
	$(BIN)/python -m benchmarks

bench-estimators: venv
	$(BIN)/python -m benchmarks.estimators

clean:
	rm -rf $(VENV) runs build dist .pytest_cache .mypy_cache .ruff_cache
