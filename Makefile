# Set-up is part of every target: a fresh clone needs only Python 3.11, a C++ compiler and pip.
PYTHON ?= python3.11
BIN := .venv/bin
WORK_DIR ?= runs/demo
DEMO = --config configs/demo.yaml --work_dir $(WORK_DIR) --data_root $(WORK_DIR)/raw --model.base $(WORK_DIR)/base

.PHONY: demo test test-all lint format bench clean

.venv/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: .venv/.installed ## the main job, end to end, on a small corpus and a 135M model
	$(BIN)/python -m meditron.demo.prepare $(WORK_DIR)
	$(BIN)/meditron run $(DEMO)

test: .venv/.installed ## the essential tests, on CPU
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-all: .venv/.installed ## also the slow ones
	$(BIN)/python -m pytest -n 2 --dist loadfile -m ''

lint: .venv/.installed ## ruff, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.installed ## apply ruff's fixes and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: demo ## what benchmarks/ measures without further data, side by side; its README lists the rest
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/tokenizing.py $(WORK_DIR)/base
	$(BIN)/python benchmarks/conversion.py $(WORK_DIR)
	$(BIN)/python benchmarks/training_step.py

clean: ## remove what the targets made, the environment included
	rm -rf .venv runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache
