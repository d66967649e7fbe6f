# Two commands for a newcomer: "make demo" and "make test". Both install what is missing first.

PY := .venv/bin/python
BIN := .venv/bin
CODE := swarmpy agent manager tests proto
QUICK = $(wildcard tests/unit tests/properties tests/sim)

# Daemons and commands are started by the thousand: without bytecode each would compile the program anew.
unexport PYTHONDONTWRITEBYTECODE

# Tests that make hosts, namespaces or cgroups need root.
ROOT := $(shell [ "$$(id -u)" -eq 0 ] || echo sudo)

.DEFAULT_GOAL := help
.PHONY: help ready demo test test-fast test-e2e clients clients-table test-python crash-test sim sim-replay lint check proto lab-up lab-down bench fmt

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST)

ready:  ## Install what is missing: Python, tools of the system, .venv
	@deploy/bootstrap.sh

demo: ready  ## Five nodes on this machine: a service, a dead leader, a dead worker
	@$(ROOT) $(BIN)/swarmpy dev demo

lab-up: ready  ## A cluster of three managers and two workers on this machine
	@$(ROOT) $(BIN)/swarmpy dev up --managers 3 --workers 2

lab-down: ready  ## Take that cluster away
	@$(ROOT) $(BIN)/swarmpy dev down

test: ready test-fast test-e2e  ## The whole test suite

test-fast: ready  ## All tests but those on real clusters
	$(ROOT) $(BIN)/pytest -q -n 2 --dist loadfile tests --ignore tests/e2e --ignore tests/clients --ignore tests/bench

test-e2e: ready clients  ## The tests on real clusters
	$(ROOT) $(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests/e2e tests/clients

clients-table: clients  ## Try every client, and write docs/clients.md
	$(ROOT) $(BIN)/pytest -q -n 2 --dist loadfile tests/clients --clients-table --deselect tests/clients/test_table.py

clients: ready  ## Install the programs of others that tests/clients drives
	@deploy/bootstrap.sh .venv "" clients

test-python: OTHER = $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
test-python: UNITS = tests/unit
test-python:  ## Unit tests under another Python: make test-python PYTHON=python3.13
	deploy/bootstrap.sh .venv-$(OTHER) $(PYTHON)
	timeout 900 .venv-$(OTHER)/bin/pytest -q -n 2 --dist worksteal $(UNITS) -m "not root and not slow"

crash-test: MINUTES = 5
crash-test: ready  ## Real daemons killed at random under load: make crash-test MINUTES=5 [SEED=N]
	$(ROOT) env CRASH_MINUTES=$(MINUTES) SEED=$(SEED) $(BIN)/pytest -q -s tests/e2e/test_random_kills.py

sim: SEEDS = 40
sim: ready  ## Simulated clusters with faults, many seeds: make sim SEEDS=200
	$(BIN)/swarmpy sim --nodes 50 --managers 3 --minutes 1 --seeds $(SEEDS)
	$(BIN)/swarmpy sim --nodes 20 --managers 5 --minutes 1 --liveness --seed 1001 --seeds $$((($(SEEDS) + 3) / 4))

sim-replay: OTHER = $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
sim-replay:  ## The same seeds make the same runs under another Python: make sim-replay PYTHON=python3.13
	deploy/bootstrap.sh .venv-$(OTHER) $(PYTHON)
	deploy/same-runs.sh $(BIN)/swarmpy .venv-$(OTHER)/bin/swarmpy

lint: ready  ## Style, types, import rules, generated code
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy swarmpy agent manager tests
	$(BIN)/lint-imports
	$(PY) proto/generate.py --check >/dev/null

check: lint  ## Before every commit: lint, unit tests and properties, some simulations
	SIM_SEEDS=32 $(BIN)/pytest -q -n 2 --dist worksteal $(QUICK) -m "not root and not slow"

proto: ready  ## Generate swarmpy/pb from proto/
	$(PY) proto/generate.py

fmt: ready  ## Format the code and sort its imports
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix --select I $(CODE)

bench: ready  ## Print the figures of tests/bench
	@for bench in tests/bench/*/bench_*.py tests/bench/bench_*.py; do \
		[ ! -e "$$bench" ] || { echo "== $$bench"; $(ROOT) env PYTHONPATH=tests/support $(PY) "$$bench" || exit 1; }; \
	done
