# Incident Poller: everything from a fresh clone. Needs make and Python 3.11 or newer with venv; no root, no network but the package index.

PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13 python3.14; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet --no-input
# More than two cores: many tests wait for daemons and sandboxes.
JOBS ?= 3
SOURCES := $(wildcard poller tests migrations benchmarks)

# The pinned files are complete, so pip has nothing to resolve (--no-deps); what is not imported need not be compiled.
INSTALL := $(PIP) install --no-compile --no-deps

# Stamps, so that a second run starts at once.
VENV_STAMP := $(VENV)/.stamp-venv
RUN_STAMP := $(VENV)/.stamp-run
DEV_STAMP := $(VENV)/.stamp-dev

# The tests start hundreds of daemons: compiled anew at each start they take three times as long.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.NOTPARALLEL:

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

.PHONY: demo
demo: $(RUN_STAMP) ## incidents from a stand-in help desk in a stand-in ServiceNow, in under a minute
	@$(BIN)/poller demo $(ARGS)

.PHONY: test
test: $(DEV_STAMP) ## all tests; what is missing here is skipped and named (with CI=true: fails). ARGS="-k word"
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup $(ARGS)

.PHONY: lint
lint: $(DEV_STAMP) ## ruff, formatting, mypy --strict, shell syntax
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy $(SOURCES)
	@bash -n .ci/run

.PHONY: format
format: $(DEV_STAMP) ## put the code in order
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

.PHONY: bench
bench: $(DEV_STAMP) ## throughput and CPU per record, durable pushes per second
	@$(BIN)/python benchmarks/throughput.py $(ARGS)
	@$(BIN)/python benchmarks/push.py

.PHONY: outbound
outbound: $(DEV_STAMP) ## messages per second to HTTP and ActiveMQ, beside bare clients
	@$(BIN)/python benchmarks/outbound.py $(ARGS)

.PHONY: revision
revision: $(DEV_STAMP) ## a new migration from the difference between poller/tables.py and migrations/. m="add a column"
	@$(BIN)/python .ci/revision.py "$(m)"
	@$(BIN)/ruff check --fix --quiet migrations; $(BIN)/ruff format --quiet migrations

.PHONY: schema
schema: $(DEV_STAMP) ## settings.schema.json and docs/settings.md anew from the models
	@made=$$(mktemp) && $(BIN)/python -m poller.settings --schema > $$made && cat $$made > settings.schema.json \
		&& $(BIN)/python -m poller.settings --reference > $$made && cat $$made > docs/settings.md && rm $$made

.PHONY: dist
dist: $(DEV_STAMP) ## wheel and sdist into dist/
	@$(BIN)/python -m build --no-isolation --outdir dist . >/dev/null && ls dist

.PHONY: lock
lock: .tools/bin/uv ## pin the newest allowed versions in .ci/requirements*.txt
	@.ci/lock

.PHONY: clean
clean: ## remove everything that make made
	@rm -rf $(VENV) .tools .demo dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV_STAMP):
ifeq ($(PYTHON),)
	@echo "make: Python 3.11 or newer is needed and none was found. Name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1
endif
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "make: $(PYTHON) is not Python 3.11 or newer. Name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "make: $(PYTHON) has no venv. On Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version)"
	@"$(PYTHON)" -m venv $(VENV)
	@touch $@

$(RUN_STAMP): .ci/requirements.txt pyproject.toml | $(VENV_STAMP)
	@echo "Installing what poller needs"
	@$(INSTALL) --require-hashes -r .ci/requirements.txt
	@$(INSTALL) --no-build-isolation -e .
	@touch $@

# A superset of the above, in the same versions.
$(DEV_STAMP): .ci/requirements-dev.txt pyproject.toml | $(VENV_STAMP)
	@echo "Installing what the tests need"
	@$(INSTALL) --require-hashes -r .ci/requirements-dev.txt
	@$(INSTALL) --no-build-isolation -e .
	@touch $(RUN_STAMP) $@

.tools/bin/uv: | $(VENV_STAMP)
	@"$(PYTHON)" -m venv .tools
	@.tools/bin/python -m pip --disable-pip-version-check --quiet install uv
