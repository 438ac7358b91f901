# Two commands do everything on a fresh machine:
#   make train     trains a self-distilled agent on CartPole-v1; make demo shows in two minutes what that is for
#   make test      runs the tests
# Both make .venv from constraints.txt first, once. The system's own Python packages are left alone.

PYTHON ?= python3
VENV ?= .venv
ENV ?= CartPole-v1
ARGS ?=
# Of pyproject.toml; read when the environment is made.
EXTRAS ?= test,contrib
# Test processes. Each uses one torch thread: on small nets more threads only get in each other's way. Each takes half of
# the tests in order, so that a trained agent that a file shares is trained once, and the first to be done helps out.
JOBS ?= 2

BIN := $(VENV)/bin
# MARK says that this file made the folder; STAMP, that the installation came to its end.
MARK := $(VENV)/.made-by-make
STAMP := $(VENV)/.installed
SOURCES := rlsd envs scripts tests

.DEFAULT_GOAL := help
.PHONY: help demo docs train test lint format clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

demo: $(STAMP) ## see in two minutes what it is for: a task kept that plain SB3 forgets
	@$(BIN)/python scripts/demo.py $(ARGS)

train: $(STAMP) ## train an agent: make train ENV=Acrobot-v1 ARGS="--seed 1 -n 100000"
	@$(BIN)/python scripts/train.py --env $(ENV) $(ARGS)

test: $(STAMP) ## run the tests: make test ARGS="-k gradient"
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

lint: $(STAMP) ## check style, format and types
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy

format: $(STAMP) ## mend what ruff can mend
	@$(BIN)/ruff check --fix $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

docs: $(STAMP) ## build the site of the documentation into docs/_build
	@$(BIN)/python -c 'import myst_nb, furo' 2>/dev/null || PIP_DISABLE_PIP_VERSION_CHECK=1 \
	    $(BIN)/python -m pip install -qq --no-input -c constraints.txt -e '.[docs]'
	@$(BIN)/python -m sphinx -W -q -b html docs docs/_build

clean: ## remove the environment, build outputs and caches; runs in logs/ stay
	@if [ -e $(MARK) ]; then rm -rf $(VENV); fi
	@rm -rf dist docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

# An installation that was interrupted leaves no stamp, and is begun again from nothing: pip takes a half-copied
# package for a whole one. A .venv that somebody else made is never touched.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "rlsd needs Python 3.11 or newer, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1 | tail -n 1)." \
	        "Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "'$(PYTHON) -m venv' is not available here: install the package python3-venv" \
	        "(Debian, Ubuntu: apt install python3-venv) and run make again." >&2; exit 1; }
	@if [ -e $(VENV) ] && [ ! -e $(MARK) ]; then \
	    echo "$(VENV) was not made by this Makefile, so it is left alone: activate it and use the pip lines" \
	        "of the README, or name another folder: make VENV=.venv-rlsd ..." >&2; exit 1; fi
	@echo "Installing rlsd and the versions of constraints.txt into $(VENV): once, a few minutes."
	@if [ ! -e $(STAMP) ]; then \
	    rm -rf $(VENV) && mkdir -p $(VENV) && touch $(MARK) && $(PYTHON) -m venv $(VENV); fi
	@rm -f $(STAMP)
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install -qq --no-input \
	    -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $(STAMP)
