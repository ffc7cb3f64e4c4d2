# `make PYTHON=/path/to/python3.12 install` chooses the interpreter of a new .venv (`make clean` drops the old one);
# without it the first suitable one on PATH is used.
BIN := .venv/bin
PINS := pyproject.toml scripts/install requirements/core.txt requirements/bare.txt requirements/data.txt

.PHONY: demo install test check fmt up bench soak prices lock clean vllm-venv test-vllm spark-venv test-spark

demo: .venv/core.stamp
	$(BIN)/laneway demo

install: .venv/core.stamp

test: .venv/dev.stamp
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

check: .venv/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

fmt: .venv/dev.stamp
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

up: .venv/core.stamp
	$(BIN)/laneway up

bench: .venv/dev.stamp
	$(BIN)/python -m benchmarks $(ARGS)

# A fleet under a nemesis, about 15 minutes; `make soak ARGS="--minutes 2"` for less.
soak: .venv/dev.stamp
	$(BIN)/python -m tests.soak $(ARGS)

# vLLM on the CPU: an environment of its own (2.5 GB, two minutes), and the tests that need it (about ten minutes).
vllm-venv: .venv-vllm/done.stamp

test-vllm: .venv/dev.stamp .venv-vllm/done.stamp
	$(BIN)/python -m pytest -m vllm $(ARGS)

# Spark in an environment of its own (0.5 GB, needs Java 17), and what it makes of the ledger's files (half a minute).
spark-venv: .venv-spark/done.stamp

test-spark: .venv/dev.stamp .venv-spark/done.stamp
	$(BIN)/python -m pytest -m spark $(ARGS)

# The price book, after a new pin of genai-prices or a new row in broker/pricebook.toml.
prices: .venv/dev.stamp
	$(BIN)/python -m scripts.compile_book $(ARGS)

# New pins: `make lock` keeps what still fits, `make lock ARGS=--upgrade` takes the newest that are a week old.
lock:
	scripts/lock $(ARGS)

clean:
	rm -rf .venv .venv-vllm .venv-spark .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build laneway.egg-info

.venv/core.stamp: $(PINS)
	PYTHON="$(PYTHON)" scripts/install core

.venv/dev.stamp: $(PINS) requirements/dev.txt
	PYTHON="$(PYTHON)" scripts/install dev

.venv-vllm/done.stamp: scripts/install-vllm requirements/torch-cpu.txt requirements/vllm.txt
	PYTHON="$(PYTHON)" scripts/install-vllm

.venv-spark/done.stamp: scripts/install-spark requirements/spark.txt
	PYTHON="$(PYTHON)" scripts/install-spark
