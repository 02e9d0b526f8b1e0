# make demo, make test: each sets up .venv first. See README.md.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
DALI ?= cu13
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(DALI)

.PHONY: help setup demo test test-all lint bench claims docs clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## create .venv with the pinned packages (DALI=cu12 for older drivers)

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "missing: $(PYTHON) (Python 3.11 or newer; or set PYTHON=...)"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "missing: Python 3.11 or newer ($(PYTHON) is older; set PYTHON=...)"; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "missing: Python's venv module (Debian: python3-venv)"; exit 2; }
	@command -v git >/dev/null || { echo "missing: git"; exit 2; }
	@command -v cc >/dev/null || { echo "missing: a C compiler (Debian: gcc)"; exit 2; }
	@echo "setting up $(VENV): about 2 GB, a few minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(DALI),samples,dev]'
	@touch $@

demo: setup ## real scans -> corpus -> four objectives -> probe -> runs/demo/report.html
	@$(BIN)/python -m launch.demo

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint ## lint, types and every test that is not slow
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow' -n 2 --dist loadfile

test-all: lint ## every test, with new random examples each time
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --hypothesis-profile=explore

bench: $(STAMP)-bench ## every benchmark, on the GPU where there is one; minutes each
	@failed=0; for script in benchmarks/*.py; do echo "── $$script"; $(BIN)/python $$script || failed=1; done; exit $$failed

$(STAMP)-bench: $(STAMP)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(DALI),bench]'
	@touch $@

claims: setup ## what the paper's two claims are worth, by experiment; resumes (BIDS=folder with T1 scans, MINUTES=170)
	@$(BIN)/python -m benchmarks.claims --out runs/claims --minutes $(or $(MINUTES),170) $(if $(BIDS),--bids $(BIDS))

docs: $(STAMP)-docs ## the documentation as a site: site/index.html
	$(BIN)/mkdocs build --strict

$(STAMP)-docs: $(STAMP)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(DALI),docs]'
	@touch $@

clean: ## remove what runs and tests have left (not .venv)
	rm -rf runs build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
