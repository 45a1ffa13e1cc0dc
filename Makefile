# shrinkflow: `make run` on a fresh machine does everything; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STUDY ?=
CONFIG := $(if $(STUDY),--configfile config/studies/$(STUDY).yaml)
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup run test test-fast lint format docs bench docs audit pins

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(VENV)/.complete  ## make the environment from the exact pins

$(VENV)/.complete: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "shrinkflow needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

run: setup  ## run the default study, or STUDY=name from config/studies/
	@shrinkflow inspect $(CONFIG)
	snakemake --cores all $(CONFIG)

test: setup  ## run all tests
	pytest -n auto --dist worksteal

test-fast: setup  ## run the tests that take no workflow
	pytest -m "not slow" -n auto

lint: setup  ## check style, types and the workflow
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check Snakefile workflow/rules
	snakemake --lint

format: setup  ## put code into the project's form
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow/rules

bench: setup  ## time the training engine against a plain PyTorch loop, a snapshot of 1,000 cells, and streamed pictures
	python benchmarks/engine.py
	python benchmarks/snapshot.py
	python benchmarks/streaming.py

docs: setup  ## make the table of keys in config/README.md and the stages in dvc.yaml anew
	python docs/keys.py
	shrinkflow stages

audit: setup  ## look the pinned packages up in the database of known vulnerabilities (needs the internet)
	uv tool run pip-audit --requirement requirements.txt --no-deps --disable-pip --strict

pins: setup  ## make requirements.txt anew from the ranges in pyproject.toml
	uv pip compile pyproject.toml --all-extras --group dev --universal --fork-strategy fewest --python-version 3.11 \
		--upgrade --no-annotate --custom-compile-command "make pins" --output-file requirements.txt
