# `make demo` and `make test` do everything, set-up included. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
# Processes that run the tests.
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin

# What is imported is compiled once, not again by each of the hundreds of processes that the tests start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-crash test-ci test-exhaustive test-avx2 lint format docs javascript wheels picture parity \
	quality seconds gpu clean

demo: $(VENV)/usable  ## fine-tune the packaged model on a data set that the package writes: no network
	$(BIN)/dongu demo

PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

test: $(VENV)/installed  ## five minutes: most things once
	$(PYTEST) -m "not crash and not exhaustive"

test-crash: $(VENV)/installed  ## kills, signals, faults by the hundred, real launchers, and more cases of the above
	$(PYTEST) -m "crash and not exhaustive"

test-ci: $(VENV)/installed  ## both in one call, so that no process waits for another in between
	$(PYTEST) -m "not exhaustive"

test-exhaustive: export DONGU_EXHAUSTIVE := 1
test-exhaustive: $(VENV)/installed  ## all cases, with every kill, signal and fault of docs/reliability.md
	$(PYTEST)

# What computes, as on a processor of 2017: no expectation may hang on the instructions of the one at hand.
COMPUTING := engine/gradients engine/padding_free export/export model/lora model/models model/scale model/weights \
	promises/accumulation
COMPUTES := split or gradient or norm or merged or graph_answers or families or alike or last_token or bf16 or half or \
	windows or backward or dropout or onednn or self_check or fillers or saved_head or unit or loss
test-avx2: export ATEN_CPU_CAPABILITY := avx2
test-avx2: export ONEDNN_MAX_CPU_ISA := AVX2
test-avx2: export MKL_ENABLE_INSTRUCTIONS := AVX2
test-avx2: $(VENV)/installed  ## what computes once more, without AVX-512 and bf16
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not crash and not exhaustive" \
		-k "$(strip $(COMPUTES))" $(foreach name,$(COMPUTING),tests/$(subst /,/test_,$(name)).py)

lint: $(VENV)/installed  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/installed  ## the reference site, into site/; a warning fails it
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

javascript: build/node/node_modules  ## transformers.js, for the test of exports in Node; 0.5 GB, needs npm
build/node/node_modules:
	npm install --silent --ignore-scripts --prefix build/node @huggingface/transformers

wheels: $(VENV)/installed  ## sdist and wheel, built, checked and installed on Python 3.11, 3.12 and 3.13
	.ci/wheels

picture: $(VENV)/installed  ## docs/report.png, from the report of the demonstration; needs chromium
	test -e runs/demo/results.json || $(BIN)/dongu demo --out runs/demo
	$(BIN)/python docs/picture.py runs/demo/report.html

parity: $(VENV)/installed  ## step for step beside the plain loop and Trainer; needs the real MRPC (DONGU_DATA)
	$(BIN)/python benchmarks/parity.py

quality: $(VENV)/installed  ## the table of docs/results.md; hours (DONGU_DATA)
	$(BIN)/python benchmarks/quality.py

seconds: $(VENV)/installed  ## the seconds of every command, into docs/performance.md; minutes
	$(BIN)/python benchmarks/commands.py

SPEED := $(BIN)/python benchmarks/speed.py --device cuda --rounds 6
gpu: $(VENV)/installed  ## where there is a GPU: its tests, then the figures of docs/performance.md (DONGU_DATA)
	$(BIN)/python -m pytest tests/engine/test_cuda.py
	$(SPEED) --batch-size 8 --warm-up 80 --steps 40
	$(SPEED) --base --batch-size 32 --warm-up 30 --steps 8 --only plain trainer trainer-best dongu dongu-bf16
	$(SPEED) --evaluate
	$(BIN)/python benchmarks/share.py

# uv looks and unpacks at once what pip takes one after another: half a minute in place of three. It does not read pip's
# settings, so it is told where else pip finds wheels; where it cannot install, pip does. Python compiles what is
# imported, when it is: to compile all that is installed takes as long again.
FIND_LINKS = $(shell $(PYTHON) -m pip config list | sed -n "s/.*find-links='\(.*\)'/\1/p" | head -n 1)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
define INSTALL
test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
$(PIP) uv
UV_FIND_LINKS="$(FIND_LINKS)" $(BIN)/uv pip install --quiet -p $(BIN)/python -c constraints.txt -e ".[$(EXTRAS)]" || \
	$(PIP) -e ".[$(EXTRAS)]"
endef

$(VENV)/usable: EXTRAS := offline
$(VENV)/usable: pyproject.toml constraints.txt
	$(INSTALL)
	@touch $@

# Not after the former, where neither is there: all would be looked at twice.
$(VENV)/installed: EXTRAS := offline,dev,docs
$(VENV)/installed: pyproject.toml constraints.txt
	$(INSTALL)
	@touch $(VENV)/usable $@

clean:
	rm -rf $(VENV) build dist site .mypy_cache .pytest_cache .ruff_cache
