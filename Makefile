# Each verb sets up what it needs in $(VENV) and does so once. Another interpreter: make test PYTHON=python3.12 VENV=.venv-3.12

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check
# Without pip's isolation, so that an installation and a later rebuild share one set of build tools and of results.
BUILD_TOOLS = $$($(BIN)/python -c \
	'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"])')
INSTALL = $(PIP) $(BUILD_TOOLS) && $(PIP) --no-build-isolation -e
CORE := setup.py $(wildcard aps_core/*.pyx aps_core/*.pxd)
PYTEST := $(BIN)/python -m pytest -q
# A process a core, and each file in one of them.
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist loadfile
# Whatever imports the core or its twin, and the face, which is all of Python that calls the core on its own.
CORE_TESTS := tests/test_face.py tests/test_ids.py \
	$(filter-out %_packaging.py,$(shell grep -lE '^from (aps_core|tests\.scheduler_pair)' tests/test_*.py))
# What rests on other libraries. Schemathesis needs a newer rich than we do, hence no fuzzing and tools by name.
LOWEST_EXTRAS := service,postgres,otel,lab,load
LOWEST_TOOLS := hypothesis jsonschema-rs prometheus-client promql-parser pytest pytest-asyncio pytest-xdist pyyaml
LOWEST_TESTS := $(filter-out %_fuzz.py,$(wildcard $(patsubst %,tests/test_%.py,cli* crash deploy docs driver* end_to_end face \
	lab_* loadtests metrics* monitoring operations_page profile* prometheus record* replay service* state* store* stress tenants* verdicts)))

# Runs $(1), whose output is shown only when it fails.
quietly = { $(1); } >build/log 2>&1 || { cat build/log; exit 1; }

.DEFAULT_GOAL := help
.PHONY: help demo serve load flood vanish crash tenancy soak figures test lowest lint types bench nightly fuzz debug sanitize dist clean

help: ## show the verbs
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.service ## a service under the stress test, the promised figures, policies compared (under a minute)
	@$(BIN)/aps demo

serve: $(VENV)/.service ## a service in the foreground, until Ctrl-C; ARGS="--gpus 2 --time-scale 10"
	@$(BIN)/aps serve $(ARGS)

load: $(VENV)/.load ## Locust against a service of its own, four profiles of a minute; PROFILE=noisy SECONDS=20
	@$(BIN)/python loadtests/run.py $(addprefix --profile ,$(PROFILE)) $(addprefix --seconds ,$(SECONDS))

flood: $(VENV)/.service ## 120,000 requests from one tenant, more than the queue takes, beside a quiet one (minutes)
	@$(BIN)/python loadtests/flood.py --over driver
	@$(BIN)/python loadtests/flood.py --over http

vanish: $(VENV)/.service ## 2,000 clients that vanish in the middle of their streams
	@$(BIN)/python loadtests/vanish.py

crash: $(VENV)/.service ## kill -9 at random moments under load, 50 times: what is in the store (minutes); STORE=URL KILLS=5
	@$(BIN)/python loadtests/crash.py $(addprefix --store ,$(STORE)) $(addprefix --kills ,$(KILLS))

tenancy: $(VENV)/.service ## 10,000 tenants in a store: how long a start takes, a change, and a scrape; STORE=URL
	@$(BIN)/python loadtests/tenancy.py $(addprefix --store ,$(STORE))

soak: $(VENV)/.load ## ten minutes of a noisy neighbour against a service with a store, and what is left of them; SECONDS=60
	@$(BIN)/python loadtests/soak.py $(addprefix --seconds ,$(SECONDS))

test: lint types ## everything that must pass: lint, types, stubs, tests, the documents' snippets
	@echo "== tests"
	@$(PYTEST) $(SIDE_BY_SIDE)

lowest: ## what rests on other libraries, with their lowest versions that pyproject.toml allows (minutes)
	@$(MAKE) -s VENV=$(VENV)-lowest $(VENV)-lowest/.lowest
	@echo "== tests"
	@# An old version may call what a new one of another library has deprecated.
	@HYPOTHESIS_PROFILE=quick $(VENV)-lowest/bin/python -m pytest -q $(SIDE_BY_SIDE) -W ignore::DeprecationWarning $(LOWEST_TESTS)

lint: $(VENV)/.built ## ruff and cython-lint
	@echo "== lint"
	@$(BIN)/ruff check -q
	@PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint aps_core

types: $(VENV)/.built ## mypy --strict, and the stubs against the compiled modules
	@echo "== types and stubs"
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/stubtest aps_core --ignore-missing-stub --concise --mypy-config-file pyproject.toml

figures: $(VENV)/.service ## the images of the documents again, to docs/images (about a minute)
	@sh docs/images/draw $(BIN)/aps build/figures

bench: $(VENV)/.bench ## microbenchmarks beside their peers, to build/bench.json
	@$(BIN)/python loadtests/micro/run.py

nightly: $(VENV)/.built ## the scheduler and its slow twin through a million random operations
	@$(BIN)/python -m tests.drive --operations 1000000

fuzz: $(VENV)/.built ## random requests from the OpenAPI document, thousands for each operation, over HTTP
	@HYPOTHESIS_PROFILE=nightly $(PYTEST) tests/test_service_fuzz.py tests/test_service_schema.py

debug: $(VENV)/.built ## the core's tests on a build with bounds checks and assertions
	@echo "== debug build"
	@$(call quietly,APS_DEBUG=1 $(BIN)/python setup.py -q build --build-base build/debug --build-lib build/debug/lib)
	@PYTHONPATH=build/debug/lib HYPOTHESIS_PROFILE=quick $(BIN)/pytest -q $(CORE_TESTS)

sanitize: $(VENV)/.built ## the core's tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@echo "== sanitizer build"
	@$(call quietly,APS_SANITIZE=1 $(BIN)/python setup.py -q build --build-base build/sanitize --build-lib build/sanitize/lib)
	@# CPython leaks by design; everything else ends the run.
	@PYTHONPATH=build/sanitize/lib HYPOTHESIS_PROFILE=quick LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libstdc++.so.6)" \
		PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
		$(BIN)/python $(BIN)/pytest -q $(CORE_TESTS)

dist: $(VENV)/.built ## the sdist, and the wheel built from it, in dist/
	@$(call quietly,$(BIN)/python -m build)
	@ls dist

clean: ## remove what the verbs made, the virtual environment included
	@rm -rf build dist $(VENV) $(VENV)-lowest python/*.egg-info aps_core/*.so .hypothesis .pytest_cache .mypy_cache .ruff_cache

# -- set-up: each step leaves a stamp and is done again only when what it read has changed --

$(BIN)/python:
	@missing="$$(sh .ci/missing $(PYTHON))"; test -z "$$missing" || { \
		echo "This machine lacks: $$missing"; echo "Install it with:  apt-get install -y $$missing"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or later is needed; name one with PYTHON=..."; exit 1; }
	@echo "== virtual environment $(VENV) ($$($(PYTHON) --version))"
	@mkdir -p build
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.service: pyproject.toml $(CORE) | $(BIN)/python
	@echo "== installing APS, its service and laboratory (compiles the core: about a minute)"
	@$(INSTALL) '.[service,lab]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "== installing APS and the development tools (compiles the core: about a minute)"
	@$(INSTALL) '.[service,lab,dev]'
	@touch $@ $(VENV)/.service

$(VENV)/.built: $(CORE) $(VENV)/.dev
	@mkdir -p build
	@$(call quietly,$(BIN)/python setup.py -q build_ext --inplace)
	@touch $@ $(VENV)/.service

$(VENV)/.lowest: pyproject.toml .ci/lowest.py $(CORE) | $(BIN)/python
	@echo "== installing APS with the lowest versions (compiles the core: about a minute)"
	@mkdir -p build
	@$(BIN)/python .ci/lowest.py $(LOWEST_EXTRAS) >build/lowest.txt
	@$(INSTALL) '.[$(LOWEST_EXTRAS)]' $(LOWEST_TOOLS) -c build/lowest.txt
	@touch $@

$(VENV)/.load: pyproject.toml $(VENV)/.service
	@echo "== installing Locust"
	@$(INSTALL) '.[service,lab,load]'
	@touch $@

$(VENV)/.bench: pyproject.toml $(VENV)/.built
	@echo "== installing the peers"
	@$(INSTALL) '.[all,dev]'
	@touch $@
