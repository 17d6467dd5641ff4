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

.PHONY: help install train demo evaluate doctor test lint test-fast test-long test-lowest test-gpu docker-test bench chaos docs lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F '\t' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo
	@echo '  Options of a run:  make train ARGS="env=atari/pong fleet.num_actors=2 total_steps=1_000_000"'
	@echo '  All of them:       make train ARGS=--help'

# What to resolve a lock file with: for every platform and Python, with the hash of every file that the index has of a version.
LOCK := -q --universal --generate-hashes --python-version 3.11 --custom-compile-command "make lock"
DECLARED := import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))
# A pip that was asked for hashes installs nothing else than what the lock file names.
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check

$(INSTALLED): $(wildcard requirements*.lock) pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed and none was found; name one: make train PYTHON=/path/to/python" >&2; exit 1; }
	@test -x $(BIN)/python -a -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) 2>/dev/null || { \
		rm -rf $(VENV); $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install -q pip; }
	@echo "Installing the pinned packages into $(VENV) (once; about two minutes)"
	@$(PIP) --require-hashes -r requirements.lock -r requirements-dev.lock -r requirements-build.lock
	@$(PIP) -r requirements-torch.lock
	@# procgen-mirror asks for numpy below 2 and the old gym, which it does not need to play (envs/procgen.py): installed without its
	@# dependencies, and only where it has a wheel. imageio is imported by gym3.
	@$(PIP) --require-hashes --no-deps --only-binary :all: -r requirements-procgen.lock \
		|| echo "ProcGen has no wheel for this Python or platform; everything else works (see rtrl-doctor)."
	@$(PIP) --no-deps --no-build-isolation -e .
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

test-fast: $(INSTALLED) ## tests of every package within two minutes on two cores; without lint and without whatever takes seconds
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not seconds and not slow and not soak and not gpu and not docker" $(ARGS)

test-long: $(INSTALLED) ## tests that take long: learning in full, every combination of options, many minutes of one run
	@$(BIN)/python -m pytest -q -m soak $(ARGS)

test-lowest: ## the fast tests with the lowest versions that pyproject.toml allows; TORCH=torch==X takes another torch than the lowest
	@test -x $(VENV)-lowest/bin/uv || { $(PYTHON) -m venv $(VENV)-lowest && $(VENV)-lowest/bin/python -m pip install -q uv; }
	@VIRTUAL_ENV=$(VENV)-lowest $(VENV)-lowest/bin/uv pip install -q --resolution lowest-direct \
		$(if $(TORCH),--override <(echo $(TORCH))) -e ".[ray,memory,logging,video,dev]"
	@# The lowest matplotlib uses names that the newest pyparsing deprecates.
	@$(VENV)-lowest/bin/python -m pytest -q -n 2 --dist worksteal -W ignore::pyparsing.warnings.PyparsingDeprecationWarning -m "not slow and not soak and not gpu and not docker" $(ARGS)

test-gpu: $(INSTALLED) ## tests that need a CUDA device
	@$(BIN)/python -m pytest -q -n 8 --dist worksteal -m gpu $(ARGS)

docker-test: $(INSTALLED) ## build the images and run the compose stack (needs a Docker engine)
	@$(BIN)/python -m pytest -q -m docker $(ARGS)

bench: $(INSTALLED) ## speed and memory, side by side: BENCH=core|dense|train|pipeline|ship|refresh|env|memory|startup|gpu|peers for one group
	@$(BIN)/python -m benchmarks $(BENCH) $(ARGS)

chaos: $(INSTALLED) ## an hour of faults on a cluster of this machine, and an audit of every contribution; ARGS="minutes=10" for less
	@$(BIN)/python -m benchmarks.chaos run $(ARGS)

docs: $(INSTALLED) ## pages for a browser in build/docs: the documentation and the API; a link that leads nowhere is an error
	@$(BIN)/python -m pages

lock: $(INSTALLED) ## resolve the lock files anew from pyproject.toml; ARGS=--upgrade takes newer versions
	@$(PIP) uv
	@$(BIN)/uv pip compile $(LOCK) $(ARGS) --extra ray --extra memory --extra logging --extra video -c requirements-torch.lock \
		-o requirements.lock pyproject.toml
	@# torch and its CUDA libraries stay out: see requirements-torch.lock.
	@awk 'BEGIN { kept = 1 } /^[a-z]/ { kept = !/^(torch|triton|nvidia|cuda)[-=]/ } kept' requirements.lock >$(VENV)/lock \
		&& mv $(VENV)/lock requirements.lock
	@$(BIN)/python -c '$(DECLARED)["project"]["optional-dependencies"]["dev"], sep="\n")' \
		| $(BIN)/uv pip compile $(LOCK) $(ARGS) -c requirements.lock -o requirements-dev.lock -
	@$(BIN)/python -c '$(DECLARED)["build-system"]["requires"], "editables", sep="\n")' \
		| $(BIN)/uv pip compile $(LOCK) $(ARGS) -c requirements.lock -c requirements-dev.lock -o requirements-build.lock -
	@printf '%s\n' procgen-mirror==0.10.7 gym3==0.3.3 imageio==2.38.1 \
		| $(BIN)/uv pip compile $(LOCK) --no-deps -o requirements-procgen.lock -

clean: ## remove the environment and caches; runs stay
	@rm -rf build $(VENV) $(VENV)-lowest .pytest_cache .ruff_cache .import_linter_cache
