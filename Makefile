# The study from nothing to its report:  make demo
# The tests:                             make test; all of them: make test-all
# Another Python:                        make demo PYTHON=/path/to/python3.12

SHELL := /bin/bash
VENV ?= .venv
# The first Python on the path that is 3.11 or later
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
# Commands in dvc.yaml find the environment that runs dvc by the path.
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: help demo docs test test-all lint format parameters pipeline benchmark clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    make $(VENV), install, run the simulated study, print where its report is"
	@echo "make docs    build the documentation as a site, with pictures of the study (runs it if it is not finished)"
	@echo "make test    install the test tools, run the tests (ARGS='-k store' passes options to pytest)"
	@echo "make test-all  the tests that take an hour too: before a release, and after a change of how things are written"
	@echo "make lint    ruff and mypy, as CI runs them"
	@echo "make benchmark  measure speed and memory beside what a user would run instead (ARGS=--quick)"
	@echo "make pipeline  write dvc.yaml of the default study anew: after a change of its template, or of what code imports"
	@echo "make parameters  write params.schema.json and docs/reference/parameters.md anew: after a change of what params.yaml takes"
	@echo "make format  let ruff fix what it can"
	@echo "make clean   remove $(VENV) and tool caches; data and results stay"

demo: $(VENV)/.installed
	$(BIN)/dvc repro
	@echo
	@echo "The report: $(abspath results/report/index.html)"

# Of the gallery every script opens a finished study: this one, or CINECUBE_STUDY.
docs: $(VENV)/.installed-docs
	@test -n "$(CINECUBE_STUDY)" -o -f results/report/index.html || $(BIN)/dvc repro
	$(BIN)/python -m sphinx -q -W --keep-going -n docs docs/_build/html
	@echo "The site: $(abspath docs/_build/html/index.html)"

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs -n auto --dist loadgroup --no-loadscope-reorder $(ARGS)

test-all:
	$(MAKE) test ARGS='-m "long or not long" $(ARGS)'

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

parameters: $(VENV)/.installed-dev
	$(BIN)/python -m tests.params_reference

pipeline: $(VENV)/.installed-dev
	$(BIN)/python -m tests.stage_code

# Two workers beside one take a finished simulated study: this one, or CINECUBE_STUDY.
benchmark: $(VENV)/.installed-dev
	for name in extraction brain cube store commands ridge permutation ceiling residual stages choices; do $(BIN)/python benchmarks/$$name.py $(ARGS) || exit 1; done
	@test -d "$(or $(CINECUBE_STUDY),.)/results/scores" || $(BIN)/dvc repro
	$(BIN)/python benchmarks/workers.py --study "$(or $(CINECUBE_STUDY),.)" $(ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build docs/_build docs/examples *.egg-info

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or later on the path; name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A stamp each, so that pip runs again only when what is wanted changes.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV): a minute or two, about 2 GB"
	$(PIP) -e '.[features]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV), with the test tools"
	$(PIP) -e '.[features,dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV), with what builds the site"
	$(PIP) -e '.[features,docs]'
	@touch $@ $(VENV)/.installed
