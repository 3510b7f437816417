# make demo: search on the digits that scikit-learn bundles.   make test: everything CI checks.
PYTHON ?= python3
VENV := .venv
# Ours: a user's own plugins may look as their user likes.
EXAMPLES := $(shell sed -n 's|.*`\([a-z]*/[a-z_0-9]*[.]py\)`.*|plugins/\1|p' plugins/README.md)
SOURCES := evonas tests benchmarks $(EXAMPLES)
READY := $(VENV)/.installed
# Half as many again as cores: two fifths of their time tests wait for processes that they began.
WORKERS := $(shell $(PYTHON) -c 'import os; print(3 * os.cpu_count() // 2)')

.PHONY: demo test test-faults test-services fuzz slow docs clean

demo: $(READY)
	$(VENV)/bin/evonas run recipes/digits_evo.yaml

test: $(READY)
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/ruff format --check $(SOURCES)
	$(VENV)/bin/mypy
	$(VENV)/bin/pytest -n $(WORKERS) --dist worksteal

test-faults: $(READY)
	$(VENV)/bin/pytest -m faults -n auto -v

test-services: $(READY)
	tests/services/install_postgresql.sh
	$(VENV)/bin/pip install --quiet --editable '.[test,postgresql]'
	$(VENV)/bin/pytest -m services -v

# So many inputs: make fuzz INPUTS=1000000
INPUTS ?= 100000
fuzz: $(READY)
	EVONAS_FUZZ=$(INPUTS) $(VENV)/bin/pytest -m fuzz tests/fuzz

slow: $(READY)
	$(VENV)/bin/pytest -m slow

docs: $(READY)
	$(VENV)/bin/pip install --quiet --editable '.[docs]'
	$(VENV)/bin/mkdocs build

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 11) <= v <= (3, 13))' \
	  || { echo "evonas needs Python 3.11 to 3.13: make PYTHON=python3.12 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --editable '.[test]'
	@touch $(READY)

clean:
	rm -rf $(VENV)
