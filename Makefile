# Every target does its own set-up. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := .venv/bin
DEMO_OUT ?= out/demo
DEMO_SLIDES ?= ../shared/slides
BROKER ?= embedded

DATA ?= data
MODEL := histgen_lib/pretrained/synthetic-he

.PHONY: help setup demo test test-e2e lint bench bench-status bench-stream bench-idle bench-histgen chaos dashboards demo-model test-world evaluate-demo comparison chart bench-capacity bench-cases capacity settings retrieval-model retrieval-world retrieval-table

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

setup: ## build .venv/ with everything; install missing Debian packages
	@deploy/setup.sh all

demo: ## the whole stream on this machine: slides in, drafts out (BROKER=kafka: on a real Kafka)
	@deploy/setup.sh base
	@deploy/setup.sh triton
	@if [ "$(BROKER)" = kafka ]; then deploy/setup.sh kafka; fi
	@$(BIN)/histgen demo --out $(DEMO_OUT) --broker $(BROKER) $(foreach path,$(wildcard $(DEMO_SLIDES)),--slides $(path))

lint: setup ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini
	$(BIN)/lint-imports

settings: setup ## docs/settings.md, from the settings classes
	$(BIN)/histgen config docs >docs/settings.md

# $(call side_by_side,NAME,TESTS,OTHERS): two runs of pytest at once; the output of the first, out/NAME.log, comes last.
define side_by_side
	@mkdir -p out; trap 'kill $$(jobs -p) 2>/dev/null' EXIT; trap 'exit 130' INT; failed=0; \
	$(BIN)/pytest --durations=15 $(2) >out/$(1).log 2>&1 & first=$$!; \
	$(BIN)/pytest --durations=15 $(3) || failed=$$?; \
	wait $$first || failed=$$?; cat out/$(1).log; exit $$failed
endef

test: setup lint ## set up, lint, run the tests of units, contracts and services (half an hour)
	$(call side_by_side,units,tests/unit tests/contract --ignore=tests/contract/bus,tests/integration tests/contract/bus)

test-e2e: setup ## run whole stacks as users do, and kill their parts (a quarter of an hour)
	$(call side_by_side,chaos,tests/chaos,tests/e2e tests/gpu)

chart: ## write what the chart knows of the table of services (helm/histgen/files/services.json)
	$(BIN)/python deploy/chart_services.py

bench: setup ## speed beside the peers, as ratios
	$(BIN)/python -m pytest tests/bench --run-bench -s

chaos: setup ## kill every component again and again, on both brokers; two-minute outages (half an hour)
	$(BIN)/python -m pytest tests/chaos --run-soak -s --durations=20

bench-status: setup ## histgen status and the live views with 100,000 slides in the store (a quarter of an hour)
	$(BIN)/python -m pytest -q tests/bench/test_status_speed.py --run-bench -s

bench-stream: setup ## overhead of the stream: latency on Kafka, share of the work at saturation, sending a bag to Triton
	$(BIN)/python -m pytest -q tests/bench/test_stream_overhead.py tests/bench/test_triton_transfer.py --run-bench -s

bench-idle: setup ## CPU and memory of an idle stack, by process, on both brokers
	$(BIN)/python -m pytest -q tests/bench/test_idle_stack.py --run-bench -s

bench-histgen: setup ## HistGen beside the authors' code (REFERENCE=<its folder>; ours alone without), 1 to 200,000 tiles
	$(BIN)/python -m pytest -q tests/bench/test_histgen_speed.py --run-bench -s -rs $(if $(REFERENCE),--reference "$(REFERENCE)")

dashboards: setup ## write Grafana's dashboards anew (helm/histgen/files/dashboards)
	$(BIN)/python deploy/grafana/write.py helm/histgen/files/dashboards

bench-capacity: setup ## the simulation beside a real stack: the same slides, the same times (a quarter of an hour)
	$(BIN)/python -m pytest -q tests/bench/test_capacity_run.py --run-bench -s

bench-cases: setup ## the case index with 100,000 slides beside FAISS alone: recall, latency, memory, disk (half an hour)
	$(BIN)/python -m pytest -q tests/bench/test_case_index_speed.py --run-bench -s

capacity: setup ## the tables and pictures of docs/capacity.md: days from 100 to a million slides, simulated
	$(BIN)/python -m histgen_lib.capacity.manual docs/capacity.md

demo-model: setup ## rebuild the shipped model from scratch (about an hour on 2 cores); then make retrieval-model
	$(BIN)/histgen synth --count 1200 --seed 1 --split train --out $(DATA)/world
	$(BIN)/histgen synth --start 1200 --count 100 --seed 1 --split val --out $(DATA)/world
	$(BIN)/histgen train-encoder --world $(DATA)/world --max-slides 420 --tile-passes 90000 --threads 1 --out $(DATA)/encoder
	$(BIN)/histgen encode $(DATA)/world/slides --encoder $(DATA)/encoder --out $(DATA)/bags
	$(BIN)/histgen train --preset small --annotation $(DATA)/world/annotation.json --bags $(DATA)/bags --encoder $(DATA)/encoder --synthetic --name synthetic-he --threads 1 --out $(DATA)/synthetic-he
	$(BIN)/histgen synth --count 160 --seed 778 --split val --out $(DATA)/evidence
	$(BIN)/histgen encode $(DATA)/evidence/slides --encoder $(DATA)/encoder --out $(DATA)/evidence-bags
	$(BIN)/histgen model measure $(DATA)/synthetic-he --annotation $(DATA)/evidence/annotation.json --truth $(DATA)/evidence/truth --bags $(DATA)/evidence-bags
	rm -rf $(MODEL) && mkdir -p $(MODEL)/training
	cp $(DATA)/synthetic-he/*.* $(MODEL)/ && cp $(DATA)/synthetic-he/training/metrics.csv $(MODEL)/training/
	$(BIN)/python -c "from histgen_lib.export import export_local; export_local('$(MODEL)', 'model_repository', reference=True)"

retrieval-model: setup ## train the shipped model's retrieval network anew, on 800 slides (half an hour on 2 cores)
	$(BIN)/histgen synth --count 700 --seed 1 --split train --out $(DATA)/cases
	$(BIN)/histgen synth --start 700 --count 100 --seed 1 --split val --out $(DATA)/cases
	$(BIN)/histgen encode $(DATA)/cases/slides --encoder $(MODEL) --out $(DATA)/case-bags
	$(BIN)/histgen train-retrieval --annotation $(DATA)/cases/annotation.json --bags $(DATA)/case-bags --model $(MODEL) --threads 1 --out $(DATA)/retrieval
	mkdir -p $(MODEL)/training/retrieval && cp $(DATA)/retrieval/training/retrieval/metrics.csv $(MODEL)/training/retrieval/
	cp $(DATA)/retrieval/{fgcr*,config.json,graphs.json} $(MODEL)/
	$(BIN)/python -c "from histgen_lib.export import export_local; export_local('$(MODEL)', 'model_repository', reference=True)"

retrieval-world: setup ## 160 slides that no training has seen, and their bags
	$(BIN)/histgen synth --count 160 --seed 4242 --split test --out $(DATA)/case-test
	$(BIN)/histgen encode $(DATA)/case-test/slides --encoder $(MODEL) --out $(DATA)/case-test-bags

retrieval-table: retrieval-model retrieval-world ## docs/retrieval-comparison.md: FGCR beside simpler searches (half an hour after its slides)
	$(BIN)/histgen compare-retrieval --annotation $(DATA)/case-test/annotation.json --bags $(DATA)/case-test-bags --truth $(DATA)/case-test/truth --train-annotation $(DATA)/cases/annotation.json --train-bags $(DATA)/case-bags --train-truth $(DATA)/cases/truth --model $(MODEL) --threads 1 --out $(DATA)/searches

test-world: setup ## 60 slides of a seed not used in training, and their bags
	$(BIN)/histgen synth --count 60 --seed 777 --split test --out $(DATA)/test
	$(BIN)/histgen encode $(DATA)/test/slides --encoder $(MODEL) --out $(DATA)/test-bags

evaluate-demo: test-world ## score the shipped model on them (the figures of its card)
	$(BIN)/histgen evaluate --annotation $(DATA)/test/annotation.json --bags $(DATA)/test-bags --truth $(DATA)/test/truth --bootstrap 1000

comparison: test-world ## docs/comparison.md: published, corrected, mean-pooled (after demo-model; about 25 minutes)
	$(BIN)/histgen compare --annotation $(DATA)/test/annotation.json --bags $(DATA)/test-bags --truth $(DATA)/test/truth --train-annotation $(DATA)/world/annotation.json --train-bags $(DATA)/bags --encoder $(DATA)/encoder --synthetic --model corrected=$(MODEL) --threads 1 --out $(DATA)/comparison
