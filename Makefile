# Two targets do all there is to do on a fresh machine: `make serve` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STORE ?= var/simulated.duckdb
PORT ?= 8787

.PHONY: serve test lint bench lock clean help

help:  ## Say what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

serve: .venv/run  ## Serve a simulated market on 127.0.0.1 (PORT, STORE)
	@mkdir -p $(dir $(STORE))
	@exec $(BIN)/flowtape serve --simulate --store $(STORE) --port $(PORT)

test: .venv/dev lint  ## Run lint and every test
	$(BIN)/pytest

lint: .venv/dev  ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/dev  ## Measure against named peers; writes benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks

lock: .venv/dev  ## Choose the newest dependencies and lock them: names, versions, hashes
	$(BIN)/pip-compile -q --upgrade --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links \
	    --no-emit-trusted-host --no-header --extra build -o requirements/run.lock pyproject.toml
	$(BIN)/pip-compile -q --upgrade --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links \
	    --no-emit-trusted-host --no-header --extra build --extra dev --allow-unsafe -o requirements/dev.lock pyproject.toml

clean:  ## Remove what the other targets made (stores under var/ stay)
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# One environment; what a target needs of it is installed once, and again when a lock changes.
.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "needs Python 3.11 or newer on the PATH, or PYTHON=/path/to/it"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/run: .venv/bin/python requirements/run.lock pyproject.toml
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements/run.lock
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv/dev: .venv/bin/python requirements/dev.lock pyproject.toml
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.lock
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@ .venv/run
