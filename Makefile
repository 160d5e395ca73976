# Every target documents itself: `make` prints this list.
SHELL := /bin/bash
VENV ?= .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help init demo test alone sim e2e cluster images definitions check format proto chaos gpu bench clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

init: $(STAMP) ## Create the virtual environment and install everything, pinned

$(STAMP): pyproject.toml constraints.txt
	@test -x $(PY) || python3.11 -m venv $(VENV) || python3 -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP) ## Start a router, prefill and decode workers; send requests; show where each one ran
	$(PY) -m sluice.cli.main demo

test: $(STAMP) ## Run every test that needs no GPU
	$(PY) -m pytest tests --ignore=tests/gpu --ignore=tests/e2e --ignore=tests/images --ignore=tests/definitions -m "not alone"

alone: $(STAMP) ## Run the tests that want the machine to themselves: random faults, cut links between network namespaces
	$(PY) -m pytest tests/system -m alone

SEED ?= 0
RUNS ?= 1000
sim: $(STAMP) ## Random fault histories on virtual time: make sim RUNS=10000; one seed again: make sim SEED=123 RUNS=1; with pictures: SIM=--images
	$(PY) -m sluice.testing.simulation --seed $(SEED) --runs $(RUNS) $(SIM)

e2e: $(STAMP) ## Install, serve and disturb on a real Kubernetes that this machine builds and starts (root; docs/kubernetes.md)
	PYTHONPATH=tests/support:. $(PY) -m pytest tests/e2e -rs

cluster: $(STAMP) ## Keep such a cluster up, with this source tree's images, until Ctrl-C; `make e2e` then uses it
	PYTHONPATH=tests/support:. $(PY) -m kube up

images: $(STAMP) ## Build the Dockerfile's images without a registry and try them (root; minutes)
	$(PY) -m pytest tests/images -rs -s

definitions: $(STAMP) ## Try the CRDs and their CEL rules on a newer API server, built from packages (root; minutes)
	$(PY) -m pytest tests/definitions -rs

check: $(STAMP) ## Lint, types, import layers, house rules
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(PY) -m pytest tests/tidy

format: $(STAMP) ## Format the code and sort imports
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

proto: $(STAMP) ## Regenerate the protobuf code from sluice/wire/sluice.proto
	$(PY) -m grpc_tools.protoc -I sluice/wire --python_out=sluice/wire/gen --pyi_out=sluice/wire/gen \
	    --grpc_python_out=sluice/wire/gen sluice/wire/sluice.proto
	sed -i 's/^import sluice_pb2/from sluice.wire.gen import sluice_pb2/' sluice/wire/gen/sluice_pb2_grpc.py

chaos: $(STAMP) ## Thousands of requests by real clients while real processes are killed, stopped, drained and moved
	$(PY) benchmarks/chaos $(CHAOS)

gpu: $(STAMP) ## Run the tests that need a CUDA device
	$(PY) -m pytest tests/gpu

bench: $(STAMP) ## Run every benchmark that needs no GPU; docs/benchmarks.md explains the figures
	$(PY) benchmarks/run_all.py

clean: ## Remove caches and the virtual environment
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info build
