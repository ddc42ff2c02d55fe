# Everything a developer or a first visitor runs. `make` alone lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

# The first Python of 3.11 or newer on the path; PYTHON=/path/to/python picks another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/ready

.PHONY: help setup browser servers demo test coverage check compose-check fmt schemas docs site bench lock clean audit

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make the environment in .venv from the lock (once)

# Downloads run side by side in uv; where uv cannot reach the index that pip is set up for, pip does the same, slower.
$(READY): requirements/dev.txt requirements/uv.txt
	@if [ -z "$(PYTHON)" ]; then echo "make: no Python 3.11 or newer on the path; set PYTHON=/path/to/python3" >&2; exit 1; fi
	@echo "Setting up .venv with $$($(PYTHON) --version): 3 GB to download the first time, most of it PyTorch"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/uv.txt
	$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r requirements/dev.txt \
		|| $(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

browser:  ## the headless Chromium that tests of the page use, by apt-get where it is not there (as root)
	@for p in chromium-headless-shell chromium chromium-browser google-chrome; do command -v $$p >/dev/null && exit 0; done; \
	[ -n "$${CODECFLOW_CHROMIUM:-}" ] && exit 0; \
	if ! command -v apt-get >/dev/null || [ "$$(id -u)" != 0 ]; then \
		echo "make: no Chromium here; install one (Debian: chromium-headless-shell), or tests of the page are skipped" >&2; exit 1; fi; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium-headless-shell >/dev/null \
		|| DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null

# Debian's packages and the libraries that they need, unpacked and not installed: no root, and no service is started.
DEBIAN := .venv/debian
servers:  ## the MQTT broker and the Prometheus that tests use, unpacked from Debian's packages into .venv
	@[ ! -x $(DEBIAN)/usr/sbin/mosquitto ] || [ ! -x $(DEBIAN)/usr/bin/promtool ] || exit 0; \
	if ! command -v apt-get >/dev/null; then \
		echo "make: no apt-get here; install mosquitto and prometheus, or the tests that need them are skipped" >&2; exit 1; fi; \
	mkdir -p $(DEBIAN)/packages/partial && { [ "$$(id -u)" != 0 ] || apt-get update -qq; } && \
	apt-get install -qq -y --no-install-recommends --download-only -o Debug::NoLocking=1 -o APT::Sandbox::User="$$(id -un)" \
		-o Dir::Cache::archives=$(CURDIR)/$(DEBIAN)/packages/ mosquitto prometheus >/dev/null && \
	for p in $(DEBIAN)/packages/*.deb; do dpkg-deb -x $$p $(DEBIAN); done && rm -r $(DEBIAN)/packages

demo: $(READY)  ## the whole path on this machine: camera clip, Kafka, worker, answers, a page to watch; SOURCE=any.mp4
	@page=; [ ! -t 1 ] || page=--page; $(BIN)/codecflow demo --model codecflow-tiny $$page $(SOURCE)

# Bytecode is kept even where the environment says not to, as many images do: the tests start dozens of processes that
# import torch and transformers, and each would compile them again, which takes longer than the import itself.
TEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest
# Four processes on two cores: at any time some tests wait for a broker, a camera or a clock (tests/conftest.py mixes them).
ALL := -n 4 --dist loadfile --no-loadscope-reorder
test: $(READY)  ## all tests but the slowest; ARGS="tests/keep -x" for some
	$(TEST) $(if $(ARGS),$(ARGS),$(ALL) -m "not slowest")

# Apart from `test`: tracing every line, also of the processes that the tests start, takes a third of the time again.
coverage: $(READY)  ## all tests, with coverage of services/ (at least 85 %)
	$(TEST) $(ALL) --cov --cov-report=term:skip-covered --cov-fail-under=85

check: $(READY)  ## lint, format, types, layers, schemas, docs: what CI checks before the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=services:training $(BIN)/mypy training
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory schemas site

compose-check: $(READY)  ## docker-compose.yml on this machine's Docker: build, up, answers, crashes, stop, down; some minutes
	$(TEST) tests/deploy/on_an_engine.py

schemas: $(READY)  ## check schemas/ and docker-compose.yml against the specifications' own schemas
	$(BIN)/check-jsonschema --check-metaschema schemas/*.schema.json
	$(BIN)/check-jsonschema --schemafile tests/vendor/asyncapi-3.0.0.schema.json schemas/asyncapi.yaml
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

SITE := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs
site: $(READY)  ## build the documentation site into build/site, strictly; no network needed
	$(SITE) build --strict

docs: $(READY)  ## write docs/reference/ from the code, then build the site
	$(BIN)/python -m codecflow.tools.docs
	@$(MAKE) --no-print-directory site

fmt: $(READY)  ## format the code and fix what lint can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)  ## the benchmarks that need no GPU, on the bundled clip
	$(BIN)/codecflow bench policies tests/data/intel_one-by-one-person-detection.mp4
	$(BIN)/codecflow bench producer tests/data/intel_one-by-one-person-detection.mp4

AUDIT := .venv/audit
$(AUDIT)/ready: requirements/audit.txt | $(READY)
	$(PYTHON) -m venv $(AUDIT)
	$(BIN)/uv pip install -q --python $(AUDIT)/bin/python --require-hashes -r requirements/audit.txt \
		|| $(AUDIT)/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/audit.txt
	@touch $@

# Advisories need a package index that has them; without, the bill of materials is made all the same.
audit: $(AUDIT)/ready  ## a bill of materials (CycloneDX) in build/, and known advisories of what is locked
	@mkdir -p build
	@$(AUDIT)/bin/cyclonedx-py requirements requirements/run.txt --output-reproducible -o build/sbom.cdx.json
	@echo "build/sbom.cdx.json: $$(grep -c '"bom-ref": ' build/sbom.cdx.json) packages"
	@$(AUDIT)/bin/pip-audit --strict --disable-pip --require-hashes -r requirements/run.txt --progress-spinner off \
		> build/audit.txt 2>&1 && tail -n 1 build/audit.txt || { \
		if grep -q '^Found ' build/audit.txt; then cat build/audit.txt; else \
		echo "make audit: the advisory database cannot be reached ($$(tail -n 1 build/audit.txt | cut -c1-200)); try again where pypi.org answers" >&2; \
		fi; exit 1; }

LOCK := $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate
lock: $(READY)  ## resolve the dependencies into requirements/ (names, versions, hashes; no addresses)
	$(LOCK) --upgrade pyproject.toml --extra dev --extra local --extra plots --extra demo --extra page --extra otel --extra history --extra notify --extra docs -o requirements/dev.txt
	$(LOCK) pyproject.toml --extra page --extra otel --extra notify -c requirements/dev.txt -o requirements/run.txt
	$(LOCK) pyproject.toml --extra page --extra otel --extra notify --extra demo -c requirements/dev.txt -o requirements/run-cpu.txt --no-emit-package torchvision \
		$$(grep -oE '^(nvidia-|cuda-|triton|torch)[a-z0-9-]*==' requirements/run.txt | sort -u | sed 's/==//; s/^/--no-emit-package /')
	echo uv | $(LOCK) --upgrade - -o requirements/uv.txt
	printf 'pip-audit\ncyclonedx-bom\n' | $(LOCK) --upgrade - -o requirements/audit.txt

clean:  ## remove the environment and every cache
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage* build dist services/*.egg-info
