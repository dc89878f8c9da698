# Every target makes its own .venv; nothing else is needed on a machine with Python >= 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2

.PHONY: demo test test-long check bench docs clean

$(VENV)/.installed: pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[all]'
	touch $@

# SCRATCH=1 trains the tokenizers too; ARGS passes further options.
demo: $(VENV)/.installed
	$(BIN)/trimask demo $(if $(SCRATCH),--scratch) $(ARGS)

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS)

test-long: $(VENV)/.installed
	$(BIN)/pytest -m long

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/train_step.py

docs: $(VENV)/.installed
	$(BIN)/python docs/build.py

clean:
	rm -rf build dist
