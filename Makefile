# Needs only Python 3.11 to 3.13, make and a package index: everything else is installed into this directory.
# `make help` lists the targets. ARGS go to the command: make up ARGS="--server.port 9000".

.DEFAULT_GOAL := help
SHELL := /bin/sh
ARGS ?=

UV_VERSION := 0.13.8
UV := .tools/bin/uv
BUF := proto/node_modules/.bin/buf
CLIENTS := tests/clients/node_modules/.bin/codex
# uv takes the Python that made .tools, and never fetches one.
export UV_PYTHON := $(CURDIR)/.tools/bin/python
export UV_PYTHON_DOWNLOADS := never
export UV_LINK_MODE ?= copy
# Dozens of processes import the same modules: they are compiled once.
unexport PYTHONDONTWRITEBYTECODE
# The machine's own certificates, where there are any: an index may be behind a company's authority.
CERTIFICATES := /etc/ssl/certs/ca-certificates.crt /etc/ssl/cert.pem /etc/pki/tls/certs/ca-bundle.crt
export UV_SYSTEM_CERTS ?= $(if $(wildcard $(CERTIFICATES)),true,false)
export NODE_EXTRA_CA_CERTS ?= $(firstword $(wildcard $(CERTIFICATES)))
# npm comes with Node.js from the package index, like everything else.
NPM_CI := PATH="$(CURDIR)/.venv/bin:$$PATH" npm ci --no-audit --no-fund --loglevel=error

MANIFESTS := pyproject.toml uv.lock $(wildcard */pyproject.toml services/*/pyproject.toml)
CHECKS := check-style check-format check-types check-imports check-stubs check-lock check-proto check-proto-breaking

# The first Python that will do, unless PYTHON says which.
define choose_python
fits='import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'; \
for python in $${PYTHON:-python3.13 python3.12 python3.11 python3}; do \
	if "$$python" -c "$$fits" >/dev/null 2>&1; then chosen="$$python"; break; fi; \
done; \
if [ -z "$$chosen" ]; then \
	echo "No suitable Python: need 3.11, 3.12 or 3.13 with the venv module (Debian: apt-get install python3-venv)." >&2; \
	echo "Name one with: make PYTHON=/path/to/python3.12 ..." >&2; \
	exit 1; \
fi
endef

.PHONY: help up down status test bench lint format proto proto-check checks clean $(CHECKS)

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 15

up: .venv/.synced ## Run everything on this machine until Ctrl-C
	@exec .venv/bin/patchbay up $(ARGS)

down: .venv/.synced ## Stop what runs here
	@exec .venv/bin/patchbay down

status: .venv/.synced ## Show what runs here
	@exec .venv/bin/patchbay status

test: .venv/.synced-dev $(CLIENTS) ## Run every test
	.venv/bin/pytest $(ARGS)

bench: .venv/.synced-dev ## Measure, side by side with its peers
	.venv/bin/patchbay-bench $(ARGS)

lint: $(CHECKS) ## Run every static check

format: .venv/.synced-dev ## Format the code and sort its imports
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

proto: .venv/.synced-dev ## Generate the Python stubs from proto/schema
	.venv/bin/python proto/generate.py

proto-check: check-stubs check-proto check-proto-breaking ## Check the contract: stubs fresh, style, only grown

checks: # The names of the static checks, for .ci/run
	@echo $(CHECKS)

check-style: .venv/.synced-dev
	.venv/bin/ruff check .

check-format: .venv/.synced-dev
	.venv/bin/ruff format --check .

check-types: .venv/.synced-dev
	.venv/bin/mypy --strict

check-imports: .venv/.synced-dev
	.venv/bin/lint-imports

check-stubs: .venv/.synced-dev
	@.venv/bin/python proto/generate.py --check 2>/dev/null

check-lock: .tools/.installed
	$(UV) lock --check

check-proto: $(BUF)
	cd proto && node_modules/.bin/buf lint

check-proto-breaking: $(BUF)
	proto/check_breaking.sh

clean: ## Remove everything that make has made
	rm -rf .tools .venv proto/node_modules .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

.tools/.installed: Makefile
	@$(choose_python); rm -rf .tools; "$$chosen" -m venv .tools
	@.tools/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@

# Two sets in one environment, neither removing the other: what runs, and what tests and checks need besides.
.venv/.synced: .tools/.installed $(MANIFESTS)
	@$(UV) sync --quiet --frozen --all-packages --no-dev --inexact
	@touch $@

.venv/.synced-dev: .tools/.installed $(MANIFESTS)
	@$(UV) sync --quiet --frozen --all-packages --inexact
	@touch $@ .venv/.synced

$(BUF): proto/package.json proto/package-lock.json .venv/.synced-dev
	@cd proto && $(NPM_CI)
	@touch $@

$(CLIENTS): tests/clients/package.json tests/clients/package-lock.json .venv/.synced-dev
	@cd tests/clients && $(NPM_CI)
	@touch $@
