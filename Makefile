# make demo       install into .demo/ and initialise a real ResNet-50
# make test       every check: lint, types, tests, the wheel in an environment of its own
# make docs       build the documentation into build/docs; a warning is an error
# make test-long  the same and the tests that take minutes
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
BIN = $(VENV)/bin
MODEL ?= resnet50
PIP_FLAGS ?= --quiet --disable-pip-version-check

SOURCES = $(shell find onnx_ghn passes -type f -not -name '*.pyc')

.PHONY: demo test test-long lint types unit wheel docs clean

# A newer torch from the registry is a CUDA build of gigabytes: TORCH is installed first.
define environment
@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
  echo "error: this Python cannot make virtual environments; install the package:"; \
  echo "  sudo apt-get install python3-venv"; exit 2; }
@test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
@$(1)/bin/pip install $(PIP_FLAGS) "$(TORCH)"
endef

demo: .demo/installed
	@.demo/bin/python tools/demo.py --model $(MODEL)

.demo/installed: setup.py pyproject.toml $(SOURCES)
	$(call environment,.demo)
	@.demo/bin/pip install $(PIP_FLAGS) --upgrade ".[cpu]"
	@.demo/bin/pip install $(PIP_FLAGS) --no-deps --force-reinstall .
	@touch $@

$(VENV)/installed: setup.py pyproject.toml
	$(call environment,$(VENV))
	@$(BIN)/pip install $(PIP_FLAGS) --editable ".[dev]"
	@touch $@

test: lint types unit wheel docs

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

unit: $(VENV)/installed
	$(BIN)/python -m pytest -m "not long" -n 2 --dist worksteal

# The wheel, installed apart from the checkout, must work there: link, package data, entry point.
wheel: $(VENV)/installed
	@rm -rf build/wheel && mkdir -p build/wheel
	@$(BIN)/pip wheel $(PIP_FLAGS) --no-deps --wheel-dir build/wheel .
	@$(PYTHON) -m venv --clear build/wheel/env
	@$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' \
	  > build/wheel/env/lib/$$(ls build/wheel/env/lib)/site-packages/dependencies.pth
	@build/wheel/env/bin/pip install $(PIP_FLAGS) --no-deps --force-reinstall build/wheel/onnx_ghn-*.whl
	@cd build/wheel && env/bin/python ../../tools/check_wheel.py

# Material's banner on the future of MkDocs is no warning about our pages.
docs: $(VENV)/installed
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

test-long: test
	$(BIN)/python -m pytest -m long -n 2 --dist worksteal

clean:
	rm -rf .demo .venv build dist *.egg-info
