# Two commands on a fresh machine: `make demo` and `make test`. Everything goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: help demo test test-long lint bench clean

help:  ## Lists the targets.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s '	'

.venv/.demo: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[demo]'
	@touch $@

.venv/.dev: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: .venv/.demo  ## Trains a real model by every method, exports and verifies it (minutes).
	$(BIN)/python examples/mnist.py

test: lint  ## Lint, types, tests and doctests.
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-long: .venv/.dev  ## The tests that take minutes.
	$(BIN)/python -m pytest -n 2 -m slow

lint: .venv/.dev  ## Format, lint, types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:  ## Removes the environment and all that was built.
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache artifacts
