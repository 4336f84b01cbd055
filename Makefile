# `make demo` and `make test` are all that a newcomer needs: each makes .venv and installs what it lacks.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all coverage test-slow test-faults device-check lint format clean

demo: .venv/core
	rm -rf runs/demo runs/demo-data runs/demo-exported
	$(BIN)/bert-jax prepare configs/demo.py
	$(BIN)/bert-jax pretrain configs/demo.py --workdir runs/demo
	$(BIN)/bert-jax evaluate configs/demo.py --workdir runs/demo
	$(BIN)/bert-jax export --workdir runs/demo --out runs/demo-exported
	$(BIN)/bert-jax fill-mask runs/demo-exported "Return the [MASK] of the object."
	$(BIN)/bert-jax fill-mask runs/demo-exported "Returns [MASK] if the object is a [MASK] of strings."

# A file at a time to each of two processes: its fixtures are made once. The tests compile more than they compute,
# and XLA's costly passes are two fifths of that: only the tests that compare numbers or programs have them here.
test: .venv/dev
	JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST)

test-all: PYTEST := -m 'not slow'
test-all: test

coverage: PYTEST := -m 'not slow' --cov --cov-report term-missing:skip-covered --cov-report html:runs/coverage
coverage: test

test-slow: .venv/dev
	$(BIN)/python -m pytest -m slow

test-faults: .venv/dev
	$(BIN)/python -m tests.benchmarks.reliability

# For another machine pack here, and run there: docs/results.md.
device-check: .venv/dev
	rm -rf runs/device runs/device-results
	$(BIN)/python -m tests.device.pack runs/device
	$(BIN)/python -m tests.device.run runs/device --out runs/device-results

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck launch/tpu_pod.sh launch/slurm.sbatch .ci/run

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv runs build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: installed, with the versions of constraints.txt. A change of either file installs again.
.venv/core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
