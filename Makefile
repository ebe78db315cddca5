PYTHON ?= python3
BIN := .venv/bin

N ?= 100

.PHONY: demo test test-deep deep lint check cover bench torture pictures install clean

install: .venv/installed

# torch comes first and by its exact version: a range may pull gigabytes of device libraries.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $$(grep '^torch==' constraints.txt)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/noether train configs/digits.yaml

test: install
	$(BIN)/python -m pytest -n 2 --dist worksteal

# The laws that need no training, at ten times the usual number of examples.
deep: install
	HYPOTHESIS_PROFILE=deep $(BIN)/python -m pytest -n 2 --dist worksteal \
		tests/laws/test_schedules.py tests/laws/test_agenda.py tests/laws/test_fold.py \
		tests/forecast

# The faults that take minutes to provoke, and long walks of the checkpoint machine.
test-deep: install
	HYPOTHESIS_PROFILE=deep $(BIN)/python -m pytest -n 2 --dist worksteal -m deep tests/faults \
		tests/trackers

# Writes docs/benchmarks.*; OPTIONS="S1 S7 --rounds 9" for two of the scenarios, say.
bench: .venv/compared
	$(BIN)/python benchmarks/suite.py $(OPTIONS)

# The other libraries that noether is measured beside.
.venv/compared: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	touch $@

# Kills a training N times and compares its end; OPTIONS="--ranks 2 --mode group", say.
torture: install
	$(BIN)/python benchmarks/torture.py --kills $(N) $(OPTIONS)

# The time lines of docs/schedules.md, drawn by the plan.
pictures: install
	$(BIN)/python docs/draw.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check: install
	$(BIN)/mypy

cover: install
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage report --skip-covered

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
