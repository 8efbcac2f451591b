# make demo          see the whole system work on MovieLens-100K (ARGS=--exit ends instead of serving on)
# make test          all tests, with real services
# make drills        faults on purpose, beside an oracle (ARGS='--list', '--full', '--drills killed-at-random')
# make soak          20 minutes of steady load on Apache Kafka; `make test` has a minute and a half (ARGS='--minutes 5')
# make lint          ruff, mypy, import-linter
# make quality       recipes beside floors on MovieLens-100K (DATA=folder: on all datasets of a folder)
# make bench-serving retrieval beside raw pymilvus, and an updater beside bare clients (reports/retrieval.json, freshness.json)
# make bench-training training steps beside dense Adam, SparseAdam, TorchRec and torch-rechub (reports/training.json)
# make quality-full  all recipes, K and seeds; hours, goes on where it stopped

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
DATA ?=

.PHONY: demo test drills soak lint quality quality-full bench-serving bench-training format clean

demo: $(VENV)/.installed-local
	@$(BIN)/python -m jobs.demo $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term $(ARGS)

drills: $(VENV)/.installed-dev
	$(BIN)/python -m tests.drills $(ARGS)

soak: $(VENV)/.installed-dev
	$(BIN)/python -m tests.drills.soak $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

quality: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.quality --data '$(DATA)' $(ARGS)

quality-full: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.quality --data '$(DATA)' --full $(ARGS)

bench-serving: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.retrieval $(ARGS)
	$(BIN)/python -m benchmarks.freshness

bench-training: $(VENV)/.installed-peers
	PYTHONPATH=$(VENV)/peers $(BIN)/python -m benchmarks.training $(ARGS)

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .mind_dist

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not installed (or set PYTHON=…)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch goes first and alone, at an exact version: a looser request may pull gigabytes of CUDA.
# recbole (for MovieLens-100K, its data files only) goes without its dependencies.
$(VENV)/.installed-local: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install -q --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[local]'
	$(BIN)/pip install -q --disable-pip-version-check --no-deps -c constraints.txt recbole
	@touch $@

# milvus (a real Milvus standalone in a wheel, for the tests) pins a client of its own: without its dependencies.
$(VENV)/.installed-dev: $(VENV)/.installed-local
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[local,dev]'
	$(BIN)/pip install -q --disable-pip-version-check --no-deps -c constraints.txt milvus
	@touch $@

# What training is compared with stays out of the environment that we run and test in.
$(VENV)/.installed-peers: benchmarks/peers.txt $(VENV)/.installed-dev
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --upgrade --target $(VENV)/peers -r benchmarks/peers.txt
	@touch $@
