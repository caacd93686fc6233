# Every target sets up what it needs in .venv and then does its work; a second call starts at once.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test test-slow test-latest test-oldest wheel lint notebooks docs studies bench bench-check clean

run: .venv/run.stamp
	$(BIN)/erfjax growth --out results/growth

test: .venv/test.stamp
	$(BIN)/python -m pytest -n 2

test-slow: .venv/test.stamp
	$(BIN)/python -m pytest -n 2 -m slow

lint: .venv/lint.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --strict --follow-imports=silent tests/public_calls.py

notebooks: .venv/notebooks.stamp
	$(BIN)/python notebooks/execute.py

# The figures first: pages show them. Warnings are errors; the code of every page runs.
docs: .venv/docs.stamp .venv/test.stamp
	$(BIN)/python docs/figures.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(BIN)/python -m pytest -n 2 -m pages tests/test_docs.py

# Every study with its defaults, on one page: results/index.html.
studies: .venv/training.stamp
	$(BIN)/erfjax reproduce all --out results

bench: .venv/bench.stamp
	$(BIN)/python -m benchmarks

# A few minutes: ratios, cold and warm, that are not to get worse.
bench-check: .venv/bench.stamp
	$(BIN)/python -m benchmarks check

# The newest JAX needs a newer interpreter than the oldest that is supported. XLA optimises as it does for users.
test-latest: .venv-latest/test.stamp
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 .venv-latest/bin/python -m pytest -n 2 tests/tracing tests/readings

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/run.stamp: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/%.stamp: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	@touch $@

.venv-latest/bin/python:
	.ci/newer-python -m venv .venv-latest

.venv-latest/test.stamp: pyproject.toml | .venv-latest/bin/python
	.venv-latest/bin/python -m pip install --quiet --disable-pip-version-check -e '.[latest]'
	@touch $@

# The lowest versions that pyproject.toml allows, all at once; newer packages below them may find them outdated.
test-oldest: .venv-oldest/test.stamp
	.venv-oldest/bin/python -m pytest -n 2 -W ignore::DeprecationWarning tests/tracing tests/readings

.venv-oldest/test.stamp: pyproject.toml
	$(PYTHON) -m venv .venv-oldest
	.ci/oldest latest > .venv-oldest/constraints.txt
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check -e '.[latest]' -c .venv-oldest/constraints.txt
	@touch $@

# The wheel, installed into a fresh environment and used away from the checkout.
wheel: .venv/release.stamp
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	.ci/try-wheel dist $(PYTHON)
	$(BIN)/pyright --pythonpath $(BIN)/python tests/public_calls.py

clean:
	rm -rf .venv .venv-latest .venv-oldest dist results site docs/figures
