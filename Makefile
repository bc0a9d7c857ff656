# make tables   the whole experiment on the embedded default
# make test     the same environment with the test tools; runs the tests
# make test-slow the paper's findings over three seeds of the default run: half an hour
# On machines whose default index has no CPU build of torch, name one that has:
#   make tables TORCH_INDEX=https://download.pytorch.org/whl/cpu
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
TORCH_INDEX ?=
CORES ?= all

.PHONY: tables test test-slow lint clean
.DELETE_ON_ERROR:

tables: $(VENV)/run.done
	@echo "Running the default experiment; results/ will hold what it makes."
	$(BIN)/snakemake --cores $(CORES)

test: $(VENV)/test.done
	@echo "Running the tests."
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-slow: $(VENV)/test.done
	@echo "Running the default experiment with three seeds."
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

lint: $(VENV)/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

$(VENV)/run.done: requirements/run.txt pyproject.toml
	@echo "Making $(VENV) with pinned dependencies; this takes a minute or two."
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0 $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(PIP) -r requirements/run.txt
	$(PIP) --no-deps --editable .
	@touch $@

$(VENV)/test.done: requirements/test.txt $(VENV)/run.done
	@echo "Adding the test tools."
	$(PIP) -r requirements/test.txt
	@touch $@

clean:
	rm -rf $(VENV) .snakemake data results logs models
