# Two commands matter: `make demo` and `make test`. Both set up what they need; nothing else has to be prepared.

VENV := .venv
BIN := $(VENV)/bin
UV ?= uv

.DEFAULT_GOAL := help
.PHONY: help demo test chaos simulate mutants check bench bench-quick setup lock clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup  ## see it work: private servers, a worker, commands, what was cleared and what was refused
	@$(BIN)/configcache demo

test: setup  ## run the whole suite on private servers; ARGS="-k name" for a part of it
	@$(BIN)/pytest -n 2 --dist worksteal $(ARGS)

chaos: setup  ## run the fault matrix at full size, and print it: under 15 minutes
	@$(BIN)/pytest --chaos tests/chaos $(ARGS)

simulate: setup  ## run the worker under N=20000 simulated schedules; SEED=4711 prints that one
	@$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--schedules $(or $(N),20000) --first $(or $(FIRST),0))

mutants: setup  ## break the program in every way on the list, and see that the simulation notices: a minute
	@$(BIN)/python -m tests.simulation.mutants

check: setup  ## lint, formatting, types, and which module may import which
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench:  ## measure the worker beside its peers, on private servers: under 15 minutes
	@scripts/setup $(VENV)-bench bench
	@$(VENV)-bench/bin/python -m benchmarks $(ARGS)

bench-quick:  ## the same with small counts, to see that it works: under 2 minutes
	@scripts/setup $(VENV)-bench bench
	@$(VENV)-bench/bin/python -m benchmarks --quick $(ARGS)

setup:  ## only create .venv and see that RabbitMQ is there
	@scripts/setup $(VENV)

lock:  ## resolve the dependencies anew into requirements/ (needs uv)
	@scripts/lock $(UV)

clean:  ## remove .venv and what the tools leave
	@rm -rf $(VENV) $(VENV)-bench .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist build
	@find contracts worker tests -type d -name __pycache__ -prune -exec rm -rf {} +
