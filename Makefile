PYTHON ?= python3
PORT ?= 4000
ARGS ?=
# For each adapter.
SECONDS ?= 900

bin := .venv/bin/python -m
# Some of the tests wait, and the longest files come first: see tests/conftest.py.
parallel := -n 4 --dist loadfile --no-loadscope-reorder
# What touches the dependencies most, each in a minute or less: servers, the handshake, redis-py, JSON, the types.
against_oldest := $(patsubst %,tests/test_%.py,handshake websocket server apps extension longpoll redis json package)

# Each of the hundreds of processes of the tests would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run docs test oldest faults lint format cover tox bench attack clean services

help:  ## Show the targets; each sets up what it needs.
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile

run: .venv/.installed example_app/node_modules  ## Serve the example chat, map and game (PORT=4000 ARGS="--workers 3").
	$(bin) example_app --port $(PORT) $(ARGS)

docs: .venv/.installed  ## Build the site into build/site; a warning is an error.
	$(bin) sphinx --fail-on-warning --keep-going --quiet --fresh-env --write-all docs build/site $(ARGS)

test: services .venv/.installed example_app/node_modules tests/clients/node_modules  ## Run the tests (ARGS="-k socket").
	$(bin) pytest $(parallel) $(ARGS)

oldest: services .venv/.installed  ## Run tests of what touches the dependencies, on the oldest versions of them.
	$(bin) tox run -e oldest -- $(against_oldest) $(ARGS)

faults: services .venv/.installed tests/clients/node_modules  ## See for half an hour whether clients miss anything (SECONDS=900).
	PHOENIX_FAULTS_SECONDS=$(SECONDS) $(bin) pytest -p no:xdist -o log_cli=true -o log_cli_level=INFO -o python_files="test_*.py losses.py" tests/faults $(ARGS)

lint: .venv/.installed  ## Check the style and the types.
	$(bin) ruff check
	$(bin) ruff format --check
	$(bin) mypy

format: .venv/.installed  ## Mend the style.
	$(bin) ruff check --fix
	$(bin) ruff format

cover: services .venv/.installed example_app/node_modules tests/clients/node_modules  ## Run the tests, and list lines they miss.
	$(bin) pytest $(ARGS) --cov

tox: services .venv/.installed example_app/node_modules tests/clients/node_modules  ## Run the tests on other versions (ARGS="-e oldest").
	$(bin) tox run $(ARGS)

bench: .venv-bench/.installed  ## Measure ours beside others on two idle cores (ARGS="fanout echo", ARGS=--quick).
	@command -v cc >/dev/null && command -v redis-server >/dev/null || { echo 'gcc or redis-server is missing. Type: sudo apt-get install gcc libc6-dev redis-server'; exit 1; }
	.venv-bench/bin/python -m benchmarks $(ARGS)

attack: .venv/.installed  ## Attack a server in all ways, and print what becomes of it and of others (ARGS="--only echoes").
	ulimit -n 20000 && timeout 600 $(bin) benchmarks.attack $(ARGS)

clean:  ## Remove everything that make and the tools made.
	rm -rf .venv .venv-bench example_app/node_modules tests/clients/node_modules build dist site instance *.egg-info
	rm -rf .tox .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* htmlcov
	find . -name __pycache__ -prune -exec rm -rf {} +

services:
	@.ci/services

.venv/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv .venv
	$(bin) pip install --quiet --disable-pip-version-check uv
	$(bin) uv pip install --quiet --python .venv/bin/python --editable '.[dev]'  # in an eighth of pip's time
	@touch $@

.venv-bench/.installed: setup.py benchmarks/requirements.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/requirements.txt
	@touch $@

%/node_modules: %/package-lock.json
	@command -v npm >/dev/null || { echo 'npm is missing (Node.js 20 or newer). Type: sudo apt-get install nodejs npm'; exit 1; }
	npm ci --prefix $* --no-audit --no-fund
	@touch $@
