# Everything runs in an environment of its own under .venv: nothing to prepare by hand.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 4
FUZZ_SECONDS ?= 300
SEEDS ?= 0:5000

.DEFAULT_GOAL := help
.PHONY: help demo test soak check format fuzz bench bench-quick clean soak-brokers

help: ## what can be done here
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "aioregistry needs Python 3.11 or later; $(PYTHON) is older. Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade --disable-pip-version-check 'pip>=25.1'

$(VENV)/.demo: $(BIN)/python pyproject.toml
	@echo "setting up $(VENV) (once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[embedded]'
	@touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml
	@echo "setting up $(VENV) with the test tools (once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[embedded]' --group test
	@touch $@

$(VENV)/.check: $(VENV)/.test
	@echo "setting up $(VENV) with the checkers (once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group check
	@touch $@

$(VENV)/.bench: $(VENV)/.test
	@echo "setting up $(VENV) with what the benchmarks compare with (once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group bench
	@touch $@

demo: $(VENV)/.demo ## watch real services find each other over a real NATS server
	@$(BIN)/python examples/demo.py

test: $(VENV)/.test ## the tests, against real brokers started by the tests
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

soak: $(VENV)/.test ## thousands of simulated fleets under faults (hours; SEEDS=0:100 for fewer)
	@$(BIN)/python -m aioregistry.testing.simulation --seeds $(SEEDS) --jobs $(JOBS) \
		--instances 200 --observers 20 --names 20 --every 0.3

soak-brokers: $(VENV)/.test ## real brokers, real faults: the long runs, as a table (a quarter of an hour)
	@AIOREGISTRY_SOAK=1 $(BIN)/python -m pytest tests/chaos -n $(JOBS) --dist worksteal
	@$(BIN)/python -m tests.chaos.soak

check: $(VENV)/.check ## lint, format, types, import layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/pyright --warnings
	@$(BIN)/lint-imports

format: $(VENV)/.check ## put the code into shape
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

fuzz: $(VENV)/.test ## fuzz what comes over the wire, for FUZZ_SECONDS=300
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check atheris
	@mkdir -p .fuzz/corpus
	@cd .fuzz && $(abspath $(BIN))/python ../tests/fuzz/fuzz_wire.py -max_total_time=$(FUZZ_SECONDS) \
		-dict=../tests/fuzz/wire.dict -max_len=20000 -timeout=10 -print_final_stats=1 corpus

bench: $(VENV)/.bench ## the benchmarks, as ratios against a floor of the same run (half an hour)
	@$(BIN)/python -m benchmarks

bench-quick: $(VENV)/.test ## the same in a minute or two: smaller, fewer rounds, without peers; fails on shape only
	@$(BIN)/python -m benchmarks --quick

clean: ## remove the environment and every cache
	@rm -rf .venv .venv-* .mypy_cache .pytest_cache .ruff_cache .hypothesis .fuzz .import_linter_cache build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
