PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN ?= runs/two_moons
# Processes of pytest for two cores: one starts clusters and mostly waits, see tests/conftest.py.
PROCESSES := -n 3

.PHONY: run docs test test-fast test-slow test-all bench bench-estimators paper frontier chaos torture venv lint clean

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

docs: venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve --dev-addr 127.0.0.1:8000

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint test-fast

test-fast: venv
	$(BIN)/python -m pytest $(PROCESSES)

test-slow: venv
	$(BIN)/python -m pytest $(PROCESSES) -m "slow and not nightly"

test-all: lint
	$(BIN)/python -m pytest $(PROCESSES) -m ""

chaos: venv
	$(BIN)/python -m benchmarks.chaos

# About 20 minutes on two cores; TORTURE="--trials 5000 --minutes 60 --seed 1" for more.
torture: venv
	$(BIN)/python -m benchmarks.torture $(TORTURE)

bench: venv
	$(BIN)/python -m benchmarks

bench-estimators: venv
	$(BIN)/python -m benchmarks.estimators

# The tables of the CMPE paper, days on two cores; `make paper SMALL=1` is a miniature.
paper: venv
	$(BIN)/python -m benchmarks.paper.report $(if $(SMALL),--small)

# sbibm's tasks, days on two cores; `make frontier FRONTIER="--tasks sir --budgets 1000 --seeds 0"` is a part.
frontier: venv
	$(BIN)/python -m benchmarks.frontier $(FRONTIER)

clean:
	rm -rf $(VENV) runs build dist .pytest_cache .mypy_cache .ruff_cache
