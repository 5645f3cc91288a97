# Every target sets up what it needs by itself; a second run installs nothing again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OUT := reports/digits/out

.DEFAULT_GOAL := help
.PHONY: help setup report cifar10 cifar100 gpu test test-slow lint bench check fuzz mutants clean

help: ## list all targets, one line each
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | awk -F '\t' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(READY) ## create .venv and install robustatt and what it needs (done by every other target)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "robustatt needs Python 3.11 or newer: make PYTHON=python3.11 ..."; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "this Python has no venv: on Debian, apt install python3-venv"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (about 3 GB of packages, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

report: $(READY) ## measure vgg and vgg_att3 on digits under attack; figures and a page into reports/digits/out
	$(BIN)/robustatt sweep --plan reports/digits/plan.toml --out $(OUT)
	$(BIN)/robustatt report $(OUT)

cifar10: $(READY) ## attack the bundled CIFAR-10 networks and write the reproduction table; DATA=DIR has the images
	$(BIN)/robustatt sweep --plan reports/cifar10/plan.toml --out reports/cifar10/out $(if $(DATA),--data-root $(DATA),--download)
	$(BIN)/robustatt report reports/cifar10/out
	$(BIN)/robustatt reproduce reports/cifar10/out --out reports/cifar10/README.md

cifar100: $(READY) ## the same for CIFAR-100
	$(BIN)/robustatt sweep --plan reports/cifar100/plan.toml --out reports/cifar100/out $(if $(DATA),--data-root $(DATA),--download)
	$(BIN)/robustatt reproduce reports/cifar100/out --out reports/cifar100/README.md

gpu: ## train the paper's networks at full width and measure; one H100-class GPU, 12 minutes; DATA=DIR has CIFAR-10
	$(PYTHON) benchmarks/gpu.py $(if $(DATA),--data-root $(DATA))

test: $(READY) ## run the fast tests
	$(BIN)/python -m pytest -n 2

test-slow: $(READY) ## run the slow tests
	$(BIN)/python -m pytest -m slow

mutants: $(READY) ## plant small faults in the core, one at a time, and count those that a fast test notices (hours)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[mutants]'
	$(BIN)/python benchmarks/mutants.py

fuzz: $(READY) ## feed every reader 10,000 damaged and hostile inputs
	ROBUSTATT_FUZZ=10000 $(BIN)/python -m pytest tests/test_fuzz.py

lint: $(READY) ## ruff, mypy and the order of the layers (import-linter)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check -q . || { echo 'Run $(BIN)/ruff format .'; exit 1; }
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(READY) ## time attacks against other libraries (half an hour on 2 cores); print ratios
	@$(BIN)/python -c 'import art, pyautoattack' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/bench.py --out reports/bench
	$(BIN)/python benchmarks/bench_attention.py
	$(BIN)/python benchmarks/bench_latency.py
	$(BIN)/python benchmarks/bench_small.py
	$(BIN)/python benchmarks/bench_board.py
	$(BIN)/python benchmarks/bench_corruptions.py
	$(BIN)/python benchmarks/bench_scale.py

clean: ## remove what runs have written (not .venv)
	rm -rf reports/out reports/*/out dist build .pytest_cache .mypy_cache .ruff_cache
