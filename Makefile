# `make help` lists what there is. PYTHON chooses the interpreter: make install PYTHON=python3.12
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# Compiling once here is seconds saved at every start, wherever PYTHONDONTWRITEBYTECODE is set.
UV := $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraints requirements.lock

.DEFAULT_GOAL := help
.PHONY: help install install-dev run test check format docs compile bench bench-validate bench-request bench-pipeline lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 18

install: $(VENV)/installed  ## install what `make run` needs, at the locked versions
install-dev: $(VENV)/installed-dev  ## install what tests, checks and notebooks need too

run: install  ## the worked example on real data: train, judge, register, and a report to look at
	$(BIN)/headway run flights

test: install-dev  ## all tests
	$(BIN)/python -m pytest

check: install-dev  ## format, lint, types, layers, READMEs and compiled pipelines
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy -p headway
	$(BIN)/lint-imports
	$(BIN)/python -m headway.components.documentation --check
	$(BIN)/headway compile --check

format: install-dev  ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install-dev  ## write the components' READMEs from their signatures and docstrings
	$(BIN)/python -m headway.components.documentation

compile: install  ## compile every shipped pipeline to the YAML beside it
	$(BIN)/headway compile

bench: bench-validate bench-request bench-pipeline  ## all benchmarks

bench-validate: install-dev  ## a table's check against pandera and Great Expectations
	$(BIN)/python tests/benchmarks/validate.py --peers

bench-request: install-dev  ## one request's check against pydantic and pandera
	$(BIN)/python tests/benchmarks/request.py

bench-pipeline: install-dev  ## `headway run` against the same functions in one warm process
	$(BIN)/python tests/benchmarks/pipeline.py

lock: install-dev  ## resolve every dependency anew, for Python 3.11 and 3.12
	# Without torch: which build is right depends on the machine (install-torch).
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --extra s3 --extra gcs --no-annotate \
		--no-header --upgrade pyproject.toml --output-file requirements.lock

clean:  ## remove what was installed and what runs have left
	rm -rf $(VENV) .dev .headway .bench build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis \
		.import_linter_cache

$(VENV)/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
		|| { echo "Headway needs Python 3.11 or 3.12; found $$($(PYTHON) --version). Try: make install PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock uv

$(VENV)/installed: $(VENV)/bin/uv pyproject.toml requirements.lock
	$(UV) --editable '.[pipelines,serving,embedded,kubernetes,example]'
	@mkdir -p .dev/headway && for folder in components pipelines serving; do ln -sfn ../../$$folder .dev/headway/$$folder; done
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(UV) --editable '.[dev]'
	@touch $@
