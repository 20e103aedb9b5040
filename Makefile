# Everything starts here: `make demo` shows what warmstart does, `make test` checks all of it.
# Both set up what they need, and say what that is before they start.

SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WARMSTART := $(BIN)/warmstart
# Outside of the checkout, so that a fresh clone need not make again what has not changed.
IMAGE_CACHE ?= $(or $(WARMSTART_CACHE),$(HOME)/.cache/warmstart)/images
# A machine's mirror of Debian may be one that is no longer updated, which is good enough to develop and to try things
# with. The command by itself insists on a Release file that is still valid.
export WARMSTART_DEBIAN_EXPIRED ?= 1
BUILD_IMAGES = $(WARMSTART) -v node run --bind $(IMAGE_CACHE) -- \
	env IMAGE_CACHE=$(IMAGE_CACHE) recipes/build-image.sh

FUZZ_SECONDS ?= 60

.PHONY: help demo test lint unit fuzz integration kubernetes vm slow bench launcher cluster images tools lock clean

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(VENV)/ready tools ## Build the Spring Boot example into an image that CRI-O restores; print what it gained
	@mkdir -p $(IMAGE_CACHE)
	$(BUILD_IMAGES) examples/java-app
	$(WARMSTART) -v build examples/java-app/recipe.yaml --output oci-archive:build/java-app-warm.tar

test: lint unit integration ## Lint, types, import rules, unit and integration tests

lint: $(VENV)/ready ## Style, types, import rules, templates for CI
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	scripts/lint-ci.sh $(CURDIR)/$(BIN)

unit: $(VENV)/ready tools ## Tests of each room
	$(BIN)/pytest tests/unit tests/fuzz -m "not slow"

fuzz: $(VENV)/ready ## Mutated inputs for each reader of strangers' input (FUZZ_SECONDS=60 for each)
	$(BIN)/pip install --quiet --editable '.[fuzz]' || echo "without atheris: mutations are blind"
	PYTHONPATH=tests $(BIN)/python -m fuzz.run $(FUZZ_SECONDS)

integration: $(VENV)/ready tools images ## Tests of the whole, and of the launcher, on the embedded node
	$(BIN)/pytest tests/integration tests/launcher -m "not slow"

kubernetes: $(VENV)/ready tools ## Tests on a Kubernetes cluster (once, Kubernetes is compiled: some minutes)
	$(BIN)/pytest tests/kubernetes -m "not slow"

vm: $(VENV)/ready tools ## What a user does on Debian 12 and 13, in virtual machines (minutes; many where KVM does not run)
	$(BIN)/pytest tests/vm

slow: $(VENV)/ready tools images ## Soak tests, container runtimes, real applications
	$(BUILD_IMAGES) $(wildcard tests/runtimes/images/*)
	$(BIN)/pytest tests -m slow --ignore=tests/vm

bench: $(VENV)/ready tools images ## What restoring gains, measured here (half an hour, on a quiet machine)
	$(BIN)/python benchmarks/run.py
	PYTHONPATH=tests $(BIN)/python benchmarks/cluster.py

launcher: $(VENV)/ready tools ## Tests of the launcher (once, CRIU is compiled: some minutes)
	$(BIN)/pytest tests/launcher

cluster: $(VENV)/ready tools ## A Kubernetes cluster to try things on, until Ctrl-C
	@PYTHONPATH=tests $(BIN)/python -m support.cluster

images: $(VENV)/ready tools ## The base images of the example and the recipes
	@mkdir -p $(IMAGE_CACHE)
	$(BUILD_IMAGES) examples/java-app recipes/java recipes/python recipes/node recipes/go

tools: $(VENV)/ready ## The tree of tools, made once and kept in ~/.cache/warmstart
	@scripts/host-tools.sh
	$(WARMSTART) -v node setup

lock: $(VENV)/ready ## Have the newest packages of Debian for the tested ones (packages.lock); then run the tests
	$(BIN)/python scripts/lock_packages.py

$(VENV)/ready: pyproject.toml
	@scripts/host-tools.sh
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

clean: ## Remove what was built here; the tree of tools stays (warmstart node remove)
	rm -rf build $(VENV)
