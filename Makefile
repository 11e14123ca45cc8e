# Everything needs only Python >= 3.11: each target builds .venv with plain venv and pip first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
PYTEST_ARGS ?=
WORKERS ?= 2

export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help test verify bench demo lint format types wheel-check tutorials clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pushforward needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

test: $(STAMP) ## Fast tests
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --durations=25 $(PYTEST_ARGS)

verify: $(STAMP) ## Every promised figure, measured; writes docs/results.md (about an hour)
	-$(BIN)/python -m pytest -n $(WORKERS) --junitxml=.cache/tests.xml $(PYTEST_ARGS)
	$(BIN)/python benchmarks/verify.py

bench: $(STAMP) ## Speed against Pyro, BlackJAX, OTT-JAX, POT, diffrax, hand-written JAX and maximum likelihood
	for file in benchmarks/overhead.py benchmarks/pyro_speed.py benchmarks/estimators.py benchmarks/flow_speed.py benchmarks/flow_forward_kl.py benchmarks/svgd_speed.py benchmarks/sgmcmc.py benchmarks/transport_speed.py benchmarks/sde_speed.py benchmarks/gpu_step.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

demo: $(STAMP) ## Two real data sets end to end; tables on screen, files in demo-output/
	$(BIN)/python examples/demo.py

lint: $(STAMP) ## Style and formatting
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

format: $(STAMP) ## Rewrite files to the style
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

types: $(STAMP) ## Static types of the package
	$(BIN)/python -m mypy

wheel-check: $(STAMP) ## Build sdist and wheel, check their files, install and fit outside the checkout
	$(BIN)/python scripts/check_wheel.py

tutorials: $(STAMP) ## Run the tutorials at small size
	PUSHFORWARD_FAST=1 XLA_FLAGS=--xla_backend_optimization_level=0 $(BIN)/python scripts/run_tutorials.py --workers $(WORKERS)

clean: ## Remove what the other targets made
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist demo-output
