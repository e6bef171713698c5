# Everything a user or a developer runs. Nothing is written outside this folder, save pip's cache.
#
#   make install     .venv with gace and all extras, from the pinned constraints
#   make demo        a complete campaign on ethanol with real DFT; ends with the report's path
#   make thorough    the same with as many labels (47 structures) and long trainings (up to 90 minutes on 2 cores)
#   make test        the tests that take seconds each
#   make test-slow   the long ones
#   make lint        ruff, mypy, import-linter
#
# All paths are relative, so the folder's own path may hold spaces.

SHELL  := /bin/bash
PYTHON ?= python3
# more options for pytest, such as PYTEST_ARGS="-k ethanol"
PYTEST_ARGS ?=
# minutes after which the remaining slow tests are skipped; whole campaigns with real programs come first
SLOW_BUDGET ?= 45
SLOW_TESTS  := $(addprefix tests/,gace_workflows aiida_gace gace_platform gace repository)

export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1

bin   := .venv/bin
ready := .venv/.installed
tools := .venv/.installed-dev

.DEFAULT_GOAL := help
.PHONY: help install install-dev demo thorough test test-slow lint format clean-demo clean-thorough

help:
	@sed -n 's/^#   //p' Makefile

install: $(ready)

$(ready): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: gace needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true);" \
	       "name another one: make install PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: this Python cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 2; }
	@echo 'installing into .venv: a few minutes the first time, about 2.5 GB'
	$(PYTHON) -m venv .venv
	$(bin)/python -m pip install --quiet --upgrade pip
	$(bin)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]'
	@# the C++ kernels, so that no first command waits for them; without a compiler there are none
	@$(bin)/python -c 'from gace.potential.kernels.build import library; library()'
	@$(bin)/python -c 'from gace.native.library import library; library()' 2>/dev/null || true
	@touch $(ready)

install-dev: $(tools)

$(tools): $(ready)
	$(bin)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(tools)

# Start the campaign, or go on with an unfinished one; a finished one is left alone. The last line is the report's path.
define campaign
	@if [ -f $(2)/summary.json ]; then \
	   echo "$(2)/ holds a finished campaign; 'make clean-$(2)' removes it"; \
	 elif [ -e $(2)/campaign.yaml ]; then \
	   $(bin)/gace campaign resume --dir $(2); \
	 else \
	   $(bin)/gace campaign run $(1) --dir $(2); \
	 fi
	@$(bin)/python -c 'import json; print(json.load(open("$(2)/summary.json"))["report"])'
endef

demo: install
	$(call campaign,examples/ethanol/campaign.yaml,demo)

thorough: install
	$(call campaign,examples/ethanol/thorough.yaml,thorough)

test: install
	$(bin)/python -P -m pytest -m "not slow" $(PYTEST_ARGS)

test-slow: install
	$(bin)/python -P -m pytest -m slow --time-budget $(SLOW_BUDGET) $(SLOW_TESTS) $(PYTEST_ARGS)

lint: install-dev
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/mypy
	PATH="$$PWD/$(bin):$$PATH" $(bin)/lint-imports

format: install-dev
	$(bin)/ruff check --fix
	$(bin)/ruff format

clean-demo:
	rm -rf demo

clean-thorough:
	rm -rf thorough
