# Two commands: `make bench` runs the benchmark on the embedded cohort, `make test` runs the tests.
# `make benchmarks` times the hot paths and keeps the figures in .benchmarks, so that commits can be compared.
# Both set up what they need in .venv first. PYTHON names the interpreter (3.11 or newer).
PYTHON ?= python3
PIP = .venv/bin/python -m pip --disable-pip-version-check
# Byte-compiling every installed module takes longer than all that the first run could save; Python keeps what it compiles
# on the way, also where the environment asks it not to.
unexport PYTHONDONTWRITEBYTECODE
INSTALL = $(PIP) install --quiet --no-compile --constraint constraints.txt

.PHONY: bench test benchmarks lint clean

bench: .venv/bench
	.venv/bin/bench run --models all

# Files of tests are shared out among the cores; each core keeps at a file, whose tests share what they prepare.
test: .venv/dev
	.venv/bin/python -m pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

benchmarks: .venv/dev
	.venv/bin/python -m pytest tests/benchmarks --benchmark-enable --benchmark-only --benchmark-autosave

lint: .venv/dev
	.venv/bin/ruff check . && .venv/bin/ruff format --check .

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python %d.%d found, 3.11 or newer is needed: make PYTHON=..." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv || { rm -rf .venv; echo 'make: no virtual environment; on Debian install python3-venv' >&2; exit 1; }

.venv/bench: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable .
	@touch $@

.venv/dev: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable '.[dev]'
	@touch $@ .venv/bench

clean:
	rm -rf .venv build *.egg-info
