# Start here: `make demo` builds the example, `make test` runs all checks. Both set up everything they need.
# `make check` runs the checks that need neither root nor the tools.

SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WARMSTART := $(BIN)/warmstart
# Both are outside of the checkout, so that a fresh clone can reuse them.
IMAGE_CACHE ?= $(or $(WARMSTART_CACHE),$(HOME)/.cache/warmstart)/images
MYPY_CACHE ?= $(HOME)/.cache/mypy/warmstart
# An outdated Debian mirror is good enough for development. The command itself requires a Release file that is still
# valid.
export WARMSTART_DEBIAN_EXPIRED ?= 1
# Compiled modules are kept. Otherwise each process of the tests compiles all of them again: half of their start.
unexport PYTHONDONTWRITEBYTECODE
BUILD_IMAGES = $(WARMSTART) -v node run --bind $(IMAGE_CACHE) -- \
	env IMAGE_CACHE=$(IMAGE_CACHE) recipes/build-image.sh

FUZZ_SECONDS ?= 60
# Test processes side by side: two for each processor, at most 8. Builds wait for their applications most of the time.
JOBS ?= $(shell jobs=$$((2 * $$(getconf _NPROCESSORS_ONLN))); echo $$((jobs < 8 ? jobs : 8)))
# Each has a cluster of its own, and runs whole files: their fixtures are builds.
CLUSTERS ?= 3

.PHONY: help demo check test lint unit fuzz integration kubernetes vm slow bench bench-java launcher cluster images tools lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]*:.*## / {printf "%-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/ready tools ## Build the Spring Boot example into a warm image, and print the gain
	@mkdir -p $(IMAGE_CACHE)
	$(BUILD_IMAGES) examples/java-app
	$(WARMSTART) -v build examples/java-app/recipe.yaml --rebuild --output oci-archive:build/java-app-warm.tar

check: lint ## Lint, and the unit tests that need neither root nor the tools; for any user, in two minutes
	$(BIN)/pytest tests/unit -m "not node and not slow and not cluster" -n auto -q -r fE

test: lint unit integration ## Lint, unit and integration tests

lint: $(VENV)/ready ## Style, types, import rules, plain English, CI templates
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --cache-dir $(MYPY_CACHE)
	$(BIN)/lint-imports
	$(BIN)/python scripts/prose.py --check docs docstrings messages
	scripts/lint-integrations.sh $(CURDIR)/$(BIN)

unit: $(VENV)/ready tools ## Unit tests, and the inputs that fuzzing found
	$(BIN)/pytest tests/unit tests/fuzz -m "not slow" -n $(JOBS) --dist worksteal

fuzz: $(VENV)/ready ## Mutated inputs for each reader of untrusted input (FUZZ_SECONDS=60 for each)
	$(BIN)/pip install --quiet --editable '.[fuzz]' || echo "without atheris: mutations are blind"
	PYTHONPATH=tests $(BIN)/python -m fuzz.run $(FUZZ_SECONDS)

integration: $(VENV)/ready tools images ## Integration tests and launcher tests, on the embedded node
	$(BIN)/pytest tests/integration tests/launcher -m "not slow" -n $(JOBS) --dist worksteal

kubernetes: $(VENV)/ready tools images ## Tests on a Kubernetes cluster (the first run compiles Kubernetes: some minutes)
	PYTHONPATH=tests $(BIN)/python -m support.cluster.program
	$(BIN)/pytest tests/kubernetes -m "not slow" -n $(CLUSTERS) --dist loadfile \
		--no-loadscope-reorder

vm: $(VENV)/ready tools ## User scenarios on Debian 12, 13 and testing, in virtual machines (minutes; much longer without KVM)
	$(BIN)/pytest tests/vm

slow: $(VENV)/ready tools images ## Soak tests, container runtimes, real applications
	scripts/java-app.sh 26
	$(BUILD_IMAGES) build/java-app-26 $(wildcard tests/runtimes/images/*)
	$(BIN)/pytest tests -m slow --ignore=tests/vm

bench: $(VENV)/ready tools images ## Benchmarks (half an hour, on a quiet machine)
	$(BIN)/python benchmarks/run.py
	PYTHONPATH=tests $(BIN)/python benchmarks/cluster.py
	PYTHONPATH=tests $(BIN)/python benchmarks/scale_from_zero.py

bench-java: $(VENV)/ready tools ## Restores and the JVM's own caches, on JDK 25 (10 minutes, on a quiet machine)
	@mkdir -p $(IMAGE_CACHE) build/bench
	scripts/java-app.sh 25
	$(BUILD_IMAGES) build/java-app-25
	$(BIN)/python benchmarks/java_caches.py --output build/bench/java-caches.json

launcher: $(VENV)/ready tools ## Launcher tests (the first run compiles CRIU: some minutes)
	$(BIN)/pytest tests/launcher

cluster: $(VENV)/ready tools ## A Kubernetes cluster for experiments, until Ctrl-C
	@PYTHONPATH=tests $(BIN)/python -m support.cluster

images: $(VENV)/ready tools ## Build the base images of the example and the recipes
	@mkdir -p $(IMAGE_CACHE)
	$(BUILD_IMAGES) examples/java-app $(wildcard examples/shop/images/*) recipes/java recipes/python recipes/node \
		recipes/go recipes/python-postgres recipes/node-postgres

tools: $(VENV)/ready ## Set up the tools directory in ~/.cache/warmstart, once
	@scripts/host-tools.sh
	$(WARMSTART) -v node setup

lock: $(VENV)/ready ## Update packages.lock to Debian's newest packages; run the tests afterwards
	$(BIN)/python scripts/lock_packages.py

$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || scripts/host-tools.sh
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

clean: ## Remove everything built here; keep the tools directory (warmstart node remove)
	rm -rf build $(VENV)
