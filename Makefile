# `make help` lists what there is. PYTHON chooses the interpreter: make install PYTHON=python3.12
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# Compiling once here is seconds saved at every start, wherever PYTHONDONTWRITEBYTECODE is set.
UV := $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraints requirements.lock

.DEFAULT_GOAL := help
.PHONY: help install install-dev install-torch run test check format docs compile lock clean \
	bench bench-validate bench-request bench-pipeline bench-serve bench-release bench-train bench-tune bench-model-files

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 18

install: $(VENV)/installed  ## install what `make run` needs, at the locked versions
install-dev: $(VENV)/installed-dev  ## install what tests, checks and notebooks need too

install-torch: $(VENV)/installed-torch  ## install torch: the CPU build where there is no GPU and one is to be had

run: install  ## the worked example on real data: train, serve, release a better version, take a bad one back
	$(BIN)/headway demo

# TORCH=no leaves torch out, and the tests that need it say so.
test: install-dev $(if $(filter no,$(TORCH)),,install-torch)  ## all tests
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

bench: bench-validate bench-request bench-pipeline bench-serve bench-release bench-train bench-tune bench-model-files  ## all benchmarks

bench-validate: install-dev  ## a table's check against pandera and Great Expectations
	$(BIN)/python tests/benchmarks/validate.py --peers

bench-request: install-dev  ## one request's check against pydantic and pandera
	$(BIN)/python tests/benchmarks/request.py

bench-pipeline: install-dev  ## `headway run` against the same functions in one warm process
	$(BIN)/python tests/benchmarks/pipeline.py

bench-serve: install-dev  ## the model server against kserve, MLServer, FastAPI, BentoML and MLflow
	$(BIN)/python tests/benchmarks/serve.py

bench-release: install-dev  ## what a bad canary costs, against fixed thresholds and intervals
	$(BIN)/python tests/benchmarks/release.py

bench-train: install-dev install-torch  ## the trainer against DataLoaders, Lightning and scikit-learn, and its scaling
	$(BIN)/python tests/benchmarks/train.py --peers

bench-tune: install-dev  ## pruned trials with four workers, with one, and plain random search
	$(BIN)/python tests/benchmarks/tune.py

bench-model-files: install-dev  ## a prediction's time before and after the model file was optimised
	$(BIN)/python tests/benchmarks/model_files.py

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

# uv knows where torch's CPU build is; where it cannot reach that, pip takes what the index has, and says so.
$(VENV)/installed-torch: $(VENV)/installed
	@command -v nvidia-smi >/dev/null && echo "torch: a build with CUDA, about 3 GB" || echo "torch: the CPU build if it can be had (200 MB), else the index's (about 3 GB)"
	@{ ! command -v nvidia-smi >/dev/null && $(UV) --torch-backend cpu 'torch>=2.6,<2.14' 2>/dev/null; } \
		|| $(BIN)/pip install --quiet --disable-pip-version-check 'torch>=2.6,<2.14'
	$(UV) onnxscript
	@touch $@
