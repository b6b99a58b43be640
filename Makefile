# Every target is documented by the comment behind its name; `make help` prints them.
PYTHON ?= python3
BIN := .venv/bin
PRESET ?= demo
PRESETS ?= history-mean,sequence-gru,sequence-transformer
WORKDIR ?= runs/$(PRESET)
USER_ID ?= 1
EXTRAS ?=
ARGS ?=
PROCESSES ?= auto
LOCK := .ci/requirements.lock
PYTEST = $(BIN)/python -m pytest -n $(PROCESSES) --maxprocesses 4 --dist loadscope --no-loadscope-reorder
OPTIONAL_scann := scann
OPTIONAL_bench := faiss-cpu|usearch|numkong

.DEFAULT_GOAL := help
.PHONY: help install demo train tune evaluate export serve recommend test test-all lint notebooks bench soak evidence compare lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-10s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  Variables: PRESET=$(PRESET) WORKDIR=$(WORKDIR) ARGS='setting=value ...' EXTRAS=scann"

install: .venv/.installed$(EXTRAS) ## create .venv and install the locked versions (EXTRAS=scann adds ScaNN, EXTRAS=bench its peers)

.venv/.installed: $(LOCK)
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "Python 3.11 to 3.13 is needed; this is " + sys.version.split()[0] + " (make PYTHON=python3.12 ...)")'
	$(PYTHON) -m venv .venv
	grep -Ev '^($(OPTIONAL_scann)|$(OPTIONAL_bench))==' $(LOCK) > .venv/locked.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps -r .venv/locked.txt
	$(BIN)/python -m compileall -q -j 0 .venv/lib
	touch $@

.venv/.installedscann .venv/.installedbench: .venv/.installed%: .venv/.installed
	grep -E '^($(OPTIONAL_$*))==' $(LOCK) > .venv/locked-$*.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps -r .venv/locked-$*.txt
	$(BIN)/python -m compileall -q -j 0 .venv/lib
	touch $@

demo: install ## the whole story on the embedded data set: train, measure, export, serve, ask
	$(BIN)/python -m trainer train --preset demo --workdir runs/demo --restart
	$(BIN)/python -m serving demo --bundle runs/demo/bundle

train: install ## train, evaluate and export PRESET into WORKDIR
	$(BIN)/python -m trainer train --preset $(PRESET) --workdir $(WORKDIR) $(ARGS)

tune: install ## search embedding dimension and temperature of PRESET
	$(BIN)/python -m trainer tune --preset $(PRESET) $(ARGS)

compare: install ## train PRESETS=a,b,c with three seeds, into one table and picture (runs/compare)
	$(BIN)/python -m trainer compare --presets $(PRESETS) $(ARGS)

evaluate: install ## measure the run in WORKDIR beside every baseline
	$(BIN)/python -m trainer evaluate --workdir $(WORKDIR) --baselines $(ARGS)

export: install ## publish the run in WORKDIR as a new bundle version
	$(BIN)/python -m trainer export --workdir $(WORKDIR) $(ARGS)

serve: install ## serve the bundle of WORKDIR on 127.0.0.1:8501 (REST) and :8500 (gRPC)
	$(BIN)/python -m serving serve --bundle $(WORKDIR)/bundle $(ARGS)

recommend: install ## ask the running server for USER_ID
	$(BIN)/python -m serving recommend --user $(USER_ID) $(ARGS)

test: install ## the fast test suite
	$(PYTEST) -m "not slow" $(ARGS)

test-all: install ## every test, the slow ones too
	$(PYTEST) $(ARGS)

lint: install ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

notebooks: install ## execute the notebooks
	$(BIN)/python -m pytest tests/notebooks $(ARGS)

bench: .venv/.installedscann .venv/.installedbench ## speed and memory against peers, as ratios: a table and bench.json
	$(BIN)/python -m tests.benchmarks $(ARGS)

soak: install ## the server's faults at full length: a version every second for a minute, ten minutes of flat memory
	SWAP_SECONDS=60 SOAK_SECONDS=600 $(BIN)/python -m pytest -n 0 tests/contract/test_serving_faults.py $(ARGS)

evidence: install ## the defaults against alternatives over several worlds: tests/benchmarks/EVIDENCE.md
	$(BIN)/python -m tests.benchmarks.evidence $(ARGS)

lock: install ## resolve setup.cfg anew and write the lock file
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile setup.cfg --extra train --extra serve --extra dev --extra scann --extra bench --python-version 3.11 --no-emit-index-url --no-emit-find-links --no-header --upgrade -o $(LOCK)

clean: ## remove the environment, runs and caches
	rm -rf .venv runs build bench.json .mypy_cache .ruff_cache .pytest_cache *.egg-info
