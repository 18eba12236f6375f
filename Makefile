# `make train` and `make test` are all a new machine needs: Python >= 3.11, a C++ compiler, make.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
SOURCES := setup.py pyproject.toml constraints.txt $(wildcard csrc/*)
OUT ?= bench/results
ARGS ?=

.PHONY: train test bench lint results gpu-check clean

train: $(VENV)/.installed
	$(RUN) -m sectow_fast.train $(ARGS)

test: $(VENV)/.installed-test lint
	$(RUN) -m pytest tests

lint: $(VENV)/.installed-test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

# Ours beside TRL, two to four minutes; the rows go to $(OUT)/cpu-step.json.
bench: $(VENV)/.installed-bench
	$(RUN) -m pytest bench --record $(OUT)

# Three seeds, every ablation and baseline: about an hour and a half on two cores.
results: $(VENV)/.installed
	$(RUN) -m sectow_fast.report.results --run --seeds 0,1,2 --runs runs/results --out docs/RESULTS.md

gpu-check:
	OUT=$(OUT) $(PYTHON) -m pytest tests -m gpu

# torch first and by itself, so that the build the machine offers (CPU or CUDA) is the one taken.
$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q $$(grep '^torch==' constraints.txt)
	touch $@

$(VENV)/.installed: $(VENV)/.torch $(SOURCES)
	$(RUN) -m pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(RUN) -m pip install -q -c constraints.txt -e '.[test]'
	touch $@

$(VENV)/.installed-bench: $(VENV)/.installed-test
	$(RUN) -m pip install -q -c constraints.txt -e '.[bench]'
	touch $@

clean:
	rm -rf build dist *.egg-info $(VENV)
