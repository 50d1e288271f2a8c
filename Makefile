# Set-up and the daily verbs. Needs make and Python 3.11 or newer; everything else goes into .venv.
PYTHON ?= python3
# Where torch comes from, if not from the default index. Without a GPU this saves gigabytes of CUDA libraries:
#   make test TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt

.PHONY: help demo edge test lint docs ci clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F '|' '{ printf "%-12s %s\n", $$1, $$2 }'

demo: .venv/.demo  ## the main job on a synthetic sample, or on a real scan: make demo INPUT=path
	@$(BIN)/diffgraft demo $(if $(INPUT),--input "$(INPUT)")

edge: $(BIN)/python  ## a folder for another machine, without torch, pip or checkout: make edge DIR=path
	@$(BIN)/python .ci/edge.py $(if $(DIR),"$(DIR)",build/edge)

test: .venv/.test  ## the fast tests
	@$(BIN)/python -m pytest -q -rs

lint: .venv/.test  ## format, lint, import contracts, types
	@status=0; for check in "ruff format --check ." "ruff check ." "lint-imports --no-logo" pyright; do \
		echo "$$check"; $(BIN)/$$check || status=1; done; exit $$status

docs: .venv/.test  ## the site, from docs/ and the code, into build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q --strict

ci:  ## what CI runs: lint, the fast tests, the slow tests
	@.ci/run

clean:  ## remove .venv, build products and caches
	rm -rf .venv build dist *.egg-info .hypothesis .pytest_cache .ruff_cache .grimp_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The package is installed editable: an edited source is in force at once. What it needs is installed again when
# pyproject.toml or constraints.txt has changed.
.venv/.demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "diffgraft: installing what the demo needs into .venv (ONNX Runtime, no PyTorch) ..."
	@$(PIP) -e '.[edge]'
	@touch $@

# torch comes first and alone: it is pinned before anything else can ask for it, and only it is looked for in TORCH_INDEX.
.venv/.test: pyproject.toml constraints.txt | $(BIN)/python
	@echo "diffgraft: installing what training and the tests need into .venv (PyTorch and more, some minutes) ..."
	@$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	@$(PIP) -e '.[edge,train,test,docs]'
	@$(PIP) -e '.[rtx]' || echo "diffgraft: TensorRT-RTX has no wheel for this machine: the tests that build engines are skipped"
	@$(PIP) -e '.[readers]' || echo "diffgraft: a reader of others has no wheel for this machine: the tests that ask it are skipped"
	@touch .venv/.demo $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"diffgraft needs Python 3.11 or newer; $(PYTHON) is {sys.version.split()[0]}. Name another: make PYTHON=python3.12 ...")'
	@echo "diffgraft: making .venv ..."
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "A virtual environment is needed and could not be made; on Debian: apt-get install python3-venv" >&2; exit 1; }
