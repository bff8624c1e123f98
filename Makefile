# One environment in .venv, pinned by constraints.txt; every target makes it when it is missing or out of date.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml constraints.txt CMakeLists.txt $(wildcard cotbal_kernels/backends/native/csrc/*)
# Where the CPU build of torch comes from. With a GPU, or from a mirror of your own: make TORCH_INDEX_URL=... demo
TORCH_INDEX_URL ?= https://download.pytorch.org/whl/cpu
HAS_GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 && echo yes)
PYTEST := $(BIN)/python -m pytest
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help env demo study test test-fast test-deepspeed test-torchvision test-gpu lint format bench bench-records bench-gpu soak docs clean

help: ## what each target does
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "CoTBal needs Python 3.11 to 3.13, and $(PYTHON) is %d.%d: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade "pip>=25"
ifeq ($(HAS_GPU),yes)
	$(BIN)/python -m pip install -q -c constraints.txt torch
else
	@$(BIN)/python -m pip install -q --no-deps --retries 0 --timeout 15 -c constraints.txt --index-url $(TORCH_INDEX_URL) torch 2>/dev/null \
	  || { echo "$(TORCH_INDEX_URL) cannot be reached; taking torch from the default index"; \
	       $(BIN)/python -m pip install -q -c constraints.txt torch; }
endif
	@touch $@

$(VENV)/.demo: $(VENV)/.torch $(SOURCES)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.torch $(SOURCES)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.demo

env: $(VENV)/.dev ## the development environment (.venv) alone

demo: $(VENV)/.demo ## the whole method on a small real mixture, on a CPU, in under 10 minutes
	$(BIN)/cotbal demo

test: $(VENV)/.dev ## every test that is not marked soak
	$(PYTEST) -n $(JOBS) --dist worksteal -m "not soak"

test-fast: $(VENV)/.dev ## the tests that take less than about a minute each
	HYPOTHESIS_PROFILE=quick $(PYTEST) -n $(JOBS) --dist worksteal -m "not soak and not slow"

test-deepspeed: $(VENV)/.dev ## training under DeepSpeed, which other tests are spared
	test -d $(VENV)/deepspeed || $(BIN)/python -m pip install -q -c constraints.txt --no-deps --target $(VENV)/deepspeed \
	  deepspeed einops hjson py-cpuinfo
	PYTHONPATH=$(abspath $(VENV))/deepspeed $(PYTEST) -m deepspeed

$(VENV)/torchvision/.done: $(VENV)/.dev
	$(BIN)/python -m pip install -q -c constraints.txt --no-deps --upgrade --target $(VENV)/torchvision torchvision num2words docopt
	@touch $@

test-torchvision: $(VENV)/torchvision/.done ## families of models whose processors need torchvision
	PYTHONPATH=$(abspath $(VENV))/torchvision $(PYTEST) -m torchvision tests/cotbal/tune/test_families.py

test-gpu: ## the same kernel tests on a GPU, with the python that is active
	python -m pytest -m gpu

lint: $(VENV)/.dev ## ruff, mypy and clang-format, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(wildcard cotbal_kernels/backends/native/csrc/*.?pp)

format: $(VENV)/.dev ## let ruff and clang-format rewrite what they can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(wildcard cotbal_kernels/backends/native/csrc/*.?pp)

bench: $(VENV)/.dev ## the CPU benchmarks; results in benchmarks/results
	$(BIN)/python -m benchmarks cpu

bench-records: $(VENV)/.dev ## reading of 1 GB of records, and starts on them; takes 2 GB of the temporary folder
	$(BIN)/python -m benchmarks records

bench-gpu: ## the GPU benchmarks, one group per process, with the python that is active (GROUP=name: that one)
	@status=0; for group in $${GROUP:-$$(python -m benchmarks gpu --list)}; do \
	  python -m benchmarks gpu --group $$group || status=1; done; exit $$status

study: $(VENV)/.dev ## whether balancing helps, on three generated mixtures: the short version of docs/study.md
	$(BIN)/python -m benchmarks.study run
	$(BIN)/python -m benchmarks.study page

soak: $(VENV)/torchvision/.done ## the long tests (minutes to hours); results in docs/soak.md, families.md and trust.md
	HYPOTHESIS_PROFILE=explore $(PYTEST) -m soak --timeout 0 --junitxml build/soak.xml; \
	  status=$$?; $(BIN)/python tests/support/pages/soak_page.py build/soak.xml docs/soak.md; \
	  PYTHONPATH=$(abspath $(VENV))/torchvision $(BIN)/python docs/make_families.py || status=1; \
	  $(BIN)/python -m tests.soak all || status=1; exit $$status

docs: $(VENV)/torchvision/.done ## regenerate the pages made from results, docs/exactness.md, families.md and inputs.md (some minutes)
	$(BIN)/python -m benchmarks pages
	$(BIN)/python -m benchmarks.study page
	$(BIN)/python docs/make_exactness.py
	PYTHONPATH=$(abspath $(VENV))/torchvision $(BIN)/python docs/make_families.py
	$(BIN)/python docs/make_inputs.py
	$(BIN)/python docs/make_torch_samples.py

clean: ## remove the environment and everything built
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
