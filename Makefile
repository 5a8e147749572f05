PORT ?= 8000
PYTHON ?= python3
BIN := .venv/bin

# Tests run in this many processes.
PROCESSES ?= 2

# Compiled modules are kept, even if this variable is set: each process then starts sooner.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help serve test test-fast check pretrained studies-page clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z.-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The folder that a model is imported into, once, from its name.
IMPORTED = imported/$(shell printf %s '$(subst ','\'',$(MODEL))' | tr -c 'A-Za-z0-9._@-' _)

ifdef MODEL
serve: .venv/import.done  ## serve the shipped model, or MODEL=hf-hub:OWNER/NAME, torchvision:NAME, a file or a folder
	ls $(IMPORTED)/*/*/manifest.json > /dev/null 2>&1 || \
	    $(BIN)/resnet-export import '$(subst ','\'',$(MODEL))' --repository $(IMPORTED)
	$(BIN)/resnet-serve --port $(PORT) --repository $(IMPORTED)
else
serve: .venv/serve.done
	$(BIN)/resnet-serve --port $(PORT)
endif

test: .venv/test.done  ## run all tests
	$(BIN)/python -m pytest -n $(PROCESSES) --dist worksteal

test-fast: .venv/test.done  ## run the tests of every layer that take less than a minute together
	$(BIN)/python -m pytest -n $(PROCESSES) --dist worksteal -p no:schemathesis -m 'not slow'

check: .venv/test.done  ## lint, types and the dependency contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

pretrained: .venv/test.done  ## export the shipped checkpoint again, as version 1
	rm -rf models/pretrained/repository/fashion-mnist-resnet20
	$(BIN)/resnet-export build models/pretrained/fashion-mnist-resnet20.safetensors \
	    --repository models/pretrained/repository --name fashion-mnist-resnet20 --data /usr/share/datasets/fashion-mnist \
	    --float16 --int8

studies-page:  ## write the page of studies to build/studies, for any static file server
	$(PYTHON) -m tools.studies_page build/studies

.env.example: service/core/settings/__init__.py deploy/environment.py .venv/test.done  ## explain every setting
	$(BIN)/python -m deploy.environment > $@

$(BIN)/python:
	$(PYTHON) -m venv .venv

BUILD := pyproject.toml constraints.txt setup.py $(wildcard service/grpc/proto/*.proto)

.venv/serve.done: $(BIN)/python $(BUILD)
	@echo 'installing into .venv (0.3 GB): a minute or two'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu]'
	touch $@

.venv/import.done: $(BIN)/python $(BUILD)
	@echo 'installing into .venv, with PyTorch: some minutes'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,train,hub]'
	touch $@ .venv/serve.done

.venv/test.done: $(BIN)/python $(BUILD) clients/python/pyproject.toml
	@echo 'installing into .venv what development needs (2.1 GB): some minutes'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,train,dev]' \
	    -e 'clients/python[images,progress]'
	touch $@ .venv/serve.done .venv/import.done

clean:  ## remove the virtual environment and all caches
	rm -rf .venv build .hypothesis .import_linter_cache *.egg-info clients/python/build clients/python/src/*.egg-info .mypy_cache .pytest_cache .ruff_cache
