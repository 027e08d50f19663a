# Two commands do everything on a fresh machine: `make demo` and `make test`. Nothing is installed outside .venv.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
RUN    ?= demo
SEED   ?= 0
ARGS   ?=

.PHONY: help demo test check format compile tiny-models seeds clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run-ready: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[train,pipelines]'
	@touch $@

$(VENV)/.dev-ready: pyproject.toml | $(VENV)/.run-ready
	$(BIN)/pip install --quiet --editable '.[train,pipelines,audit,serve,cluster,dev]'
	@touch $@

demo: $(VENV)/.run-ready  ## audit, train in three stages, evaluate, report: about three minutes (SEED=1 RUN=name)
	$(BIN)/python -m pipelines.run --pipeline omniboost --recipe tiny --seed $(SEED) --run runs/$(RUN) $(ARGS)

test: $(VENV)/.dev-ready  ## the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

check: $(VENV)/.dev-ready  ## lint, types, import walls, compiled pipelines current
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pipelines.compile --check

format: $(VENV)/.dev-ready  ## what ruff can mend by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

compile: $(VENV)/.run-ready  ## pipelines to IR YAML and Kubernetes manifests
	$(BIN)/python -m pipelines.compile

tiny-models: $(VENV)/.run-ready  ## the embedded models again, from nothing: about 25 minutes
	$(BIN)/python -m omnicore.models.pretrain omnicore/assets/models

seeds: $(VENV)/.run-ready  ## three seeds with the random-reward control arm, into docs/seeds.md: about fifteen minutes
	$(BIN)/python -m perf.seeds $(ARGS)

clean:  ## runs and caches (the virtual environment stays)
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage .coverage.*
