# make demo and make test each set up all they need in .venv; they need Python 3.11 or newer and nothing else.
PYTHON ?= python3
BIN := .venv/bin
RUN ?= runs/demo
JOBS ?= 2
# Every process that a test starts would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check bench science cluster search laws docs clean help
.DEFAULT_GOAL := help

help:
	@echo "make demo     map the three regimes of a small network (under a minute) and write a page"
	@echo "make test     linters, types, import contracts, tests: minutes (JOBS=8 on a machine of eight cores)"
	@echo "make check    linters, types and import contracts only"
	@echo "make science  the phenomena, trained anew on real data (SECOND=no: each claim on its first data set alone)"
	@echo "make search   the property tests with new random examples, other ones each time"
	@echo "make cluster  two nodes of Ray on loopback: a lost node, a killed driver, an orderly stop (minutes)"
	@echo "make docs     the documentation as a site that works offline, in site/, and its checks"
	@echo "make laws     draw the figures of docs/laws.md and print its numbers"
	@echo "make bench    measured ratios (minutes; an otherwise idle machine)"

demo: .venv/lab
	@rm -rf $(RUN)
	$(BIN)/onsphere regimes --out $(RUN)

test: check
	$(BIN)/pytest -n $(JOBS) --dist worksteal --ignore=tests/science --ignore=tests/site --ignore=tests/lab/executors/test_ray.py

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

science: .venv/dev
	$(BIN)/pytest -n $(JOBS) --dist worksteal $(if $(filter no,$(SECOND)),-m "not second") tests/science

cluster: .venv/dev
	$(BIN)/pytest tests/lab/executors/test_ray.py

search: .venv/dev
	$(BIN)/pytest -n $(JOBS) --hypothesis-profile=search -m hypothesis

bench: .venv/dev
	$(BIN)/python -m benchmarks

laws: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python docs/build_laws.py

docs: .venv/dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	$(BIN)/pytest -n $(JOBS) --dist worksteal tests/site
	@echo "open site/index.html"

clean:
	rm -rf .venv runs site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("onsphere needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv .venv

# Torch comes first and pinned: an unpinned one would bring gigabytes of accelerator packages.
.venv/lab: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[lab]'
	@touch $@

# Oracles that would pull torchvision, which has no build for this torch, and do not need it.
.venv/dev: .venv/lab
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps axe-core-python backpack-for-pytorch curvlinops-for-pytorch
	@touch $@
