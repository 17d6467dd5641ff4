# Everything a user does with this project. `make help` lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# The first interpreter that is new enough; override with `make train PYTHON=/path/to/python`.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	if command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then echo $$p; break; fi; done)
ARGS ?=
BENCH ?= all

.PHONY: help install train demo test lint test-long test-gpu docker-test bench lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F '\t' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo
	@echo '  Options of a run:  make train ARGS="env=atari/pong fleet.num_actors=2 total_steps=1_000_000"'
	@echo '  All of them:       make train ARGS=--help'

$(INSTALLED): requirements.lock requirements-procgen.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed and none was found; name one: make train PYTHON=/path/to/python" >&2; exit 1; }
	@test -x $(BIN)/python -a -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) 2>/dev/null || { \
		rm -rf $(VENV); $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install -q pip; }
	@echo "Installing the pinned packages into $(VENV) (once; about two minutes)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.lock
	@# Its metadata asks for an old numpy that it does not need: installed without its dependencies, and only where it has a wheel.
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --only-binary :all: -r requirements-procgen.lock \
		|| echo "ProcGen has no wheel for this Python or platform; everything else works (see rtrl-doctor)."
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

install: $(INSTALLED) ## create the environment in .venv

train: $(INSTALLED) ## train; Breakout unless ARGS say otherwise; stops cleanly on Ctrl-C, goes on at the next call
	@$(BIN)/rtrl-train $(ARGS)

demo: $(INSTALLED) ## the argument of the project in three minutes: RTRL against truncated BPTT on a T-maze
	@$(BIN)/rtrl-demo $(ARGS)

evaluate: $(INSTALLED) ## evaluate a run: make evaluate ARGS="checkpoint=runs/atari_breakout"
	@$(BIN)/rtrl-evaluate $(ARGS)

doctor: $(INSTALLED) ## what is installed and working on this machine
	@$(BIN)/rtrl-doctor $(ARGS)

lint: $(INSTALLED) ## formatting, lint, types and layer contracts
	@$(BIN)/ruff format --check --quiet . || { echo "run: $(BIN)/ruff format ."; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/basedpyright --level error
	@$(BIN)/lint-imports --no-logo >/dev/null || $(BIN)/lint-imports --no-logo

test: lint ## lint, types, layer contracts and all tests (long and GPU ones apart)
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not soak and not gpu and not docker" $(ARGS)

test-long: $(INSTALLED) ## tests that run for many minutes
	@$(BIN)/python -m pytest -q -m soak $(ARGS)

test-gpu: $(INSTALLED) ## tests that need a CUDA device
	@$(BIN)/python -m pytest -q -m gpu $(ARGS)

docker-test: $(INSTALLED) ## build the images and run the compose stack (needs a Docker engine)
	@$(BIN)/python -m pytest -q -m docker $(ARGS)

bench: $(INSTALLED) ## speed and memory, side by side: BENCH=core|train|env|memory|startup for one group
	@$(BIN)/python -m benchmarks $(BENCH) $(ARGS)

lock: $(INSTALLED) ## resolve requirements.lock anew from pyproject.toml
	@$(BIN)/python -m pip install -q pip-tools
	@echo 'torch==2.13.0' > $(VENV)/constraints.txt
	@CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile -q --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
		--no-emit-options --allow-unsafe --all-extras --build-deps-for editable -c $(VENV)/constraints.txt -o requirements.lock pyproject.toml
	@# The build of torch that was resolved here (CPU or CUDA) must not be demanded from others.
	@sed -i.bak -E "s/^(torch==[0-9.]+)\\+.*/\\1/" requirements.lock && rm requirements.lock.bak

clean: ## remove the environment and caches; runs stay
	@rm -rf $(VENV) .pytest_cache .ruff_cache .import_linter_cache
