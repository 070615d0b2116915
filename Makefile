# Every target does its own set-up. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := .venv/bin
DEMO_OUT ?= out/demo

.PHONY: help setup demo test lint bench

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

setup: ## build .venv/ with everything; install missing Debian packages
	@deploy/setup.sh all

demo: ## slides in, reports out: draws synthetic slides, reports them, shows the ground truth beside each
	@deploy/setup.sh base
	@$(BIN)/histgen demo --out $(DEMO_OUT)

lint: setup ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup lint ## set-up, lint, then every test
	$(BIN)/pytest --durations=15

bench: setup ## speed against the peers, as ratios
	$(BIN)/python -m pytest tests/bench --run-bench -s
