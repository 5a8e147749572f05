PORT ?= 8000
PYTHON ?= python3
BIN := .venv/bin

.PHONY: serve test check clean

serve: .venv/serve.done  ## serve the trained model that ships with the project
	$(BIN)/resnet-serve --port $(PORT)

test: .venv/test.done  ## run the tests
	$(BIN)/python -m pytest

check: .venv/test.done  ## lint, types and the dependency contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/serve.done: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu]'
	touch $@

.venv/test.done: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,train,dev]'
	touch $@ .venv/serve.done

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache
