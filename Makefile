# Two commands set everything up: `make start` and `make test`. Each target below installs what it needs first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
BUILD := build
JOBS ?= 2
# Tests of whole fabrics, which run one after the other and after all others: many processes each, and faults among them.
FABRICS := tests/system tests/examples tests/deploy tests/docs/test_under_a_supervisor.py \
  tests/common/supervisor/links/test_two_hosts.py \
  tests/pc2/observability_hub/test_two_hosts.py tests/pc2/observability_hub/test_whole_fabric.py
UNABLE := $(BUILD)/could-not-run.txt
SEED ?= 1
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps

.NOTPARALLEL:

# Without cached bytecode every start-up takes five times longer.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install system start start-mainpc start-pc2 demo test check lint types contracts house bench soak clean packages

help: ## say what each target does
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMPS)/project ## make .venv from requirements.lock and put Tandem into it
	@:

system: ## install the Debian packages the tests use, saying what each is for (as root)
	@$(PYTHON) -m scripts.system install

start: install ## run both hosts on this machine; cards are simulated where there are none
	@$(BIN)/tandem start

start-mainpc: install ## run MainPC's supervisor on this machine
	@$(BIN)/python -m main_pc

start-pc2: install ## run PC2's supervisor on this machine
	@$(BIN)/python -m pc2

demo: install $(STAMPS)/examples ## do the main job on real input and compare the answers with the truth
	@$(BIN)/python -m examples.demo

test: lint types contracts packages $(STAMPS)/examples ## run every check and every test, then list what could not run here and why
	@rm -rf $(BUILD)/coverage $(UNABLE) && mkdir -p $(BUILD)/coverage && touch $(UNABLE)
	@status=0; \
	$(BIN)/coverage run -m pytest -q --numprocesses $(JOBS) --dist loadfile $(FABRICS:%=--ignore=%) || status=1; \
	mv $(UNABLE) $(UNABLE).first; \
	$(BIN)/coverage run -m pytest -q $(FABRICS) || status=1; \
	cat $(UNABLE).first >>$(UNABLE); rm $(UNABLE).first; \
	$(BIN)/coverage combine -q && $(BIN)/coverage json -q -o $(BUILD)/coverage.json \
	  && $(BIN)/python -m scripts.coverage_gate $(BUILD)/coverage.json || status=1; \
	if [ -s $(UNABLE) ]; then \
	  echo "could not run here:"; sed 's/^/  /' $(UNABLE); $(PYTHON) -m scripts.system list; \
	else echo "every test ran"; fi; \
	exit $$status

check: lint types contracts house ## lint, types, import contracts and documents, without the other tests
	@:

bench: install $(STAMPS)/benchmarks ## measure speed and memory against the bare libraries
	@$(BIN)/python -m benchmarks

soak: install ## a hundred kills, two hundred faults under load, a thousand stories of VRAM; SEED=n chooses and replays them
	@TANDEM_KILLS=100 TANDEM_FAULTS=200 TANDEM_VRAM_SEEDS=1000 TANDEM_SEED=$(SEED) \
	  $(BIN)/python -m pytest -q tests/system/test_chaos.py tests/system/test_faults.py tests/system/test_vram_faults.py

clean: ## remove what was built and installed here; var/, the fabric's memory, stays
	rm -rf $(VENV) $(BUILD) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -not -path './var/*' -prune -exec rm -rf {} +

lint: install
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .

types: install
	@$(BIN)/mypy --no-error-summary

contracts: install
	@mkdir -p $(BUILD)
	@$(BIN)/lint-imports --no-logo >$(BUILD)/contracts.txt || { cat $(BUILD)/contracts.txt; exit 1; }

house: install
	@$(BIN)/python -m scripts.protocol_tables --check
	@$(BIN)/python -m pytest -q tests/house

packages:
	@if [ "$$CI" = true ] && [ "$$(id -u)" = 0 ]; then $(PYTHON) -m scripts.system install; fi

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Tandem needs Python 3.11 or newer, not " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) $(BUILD) && touch $@

$(STAMPS)/lock: requirements.lock | $(STAMPS)/venv
	$(PIP_INSTALL) --require-hashes -r requirements.lock
	@touch $@

$(STAMPS)/project: pyproject.toml $(STAMPS)/lock
	$(PIP_INSTALL) --no-index --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q tandem common main_pc pc2
	@touch $@

$(STAMPS)/examples $(STAMPS)/benchmarks: $(STAMPS)/%: %/requirements.lock $(STAMPS)/lock
	$(PIP_INSTALL) --require-hashes -r $<
	@touch $@
