# Two commands do everything from a fresh checkout with only Python (3.11 or newer): make demo, make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT := demo-out

.PHONY: demo test test-slow test-qnn docs lint clean

DIGITS := examples/digits/digits.onnx --data examples/digits/calib.npz
SCORE := --eval-data examples/digits/eval.npz --metric top1 --max-drop 0.5

demo: $(VENV)/.demo
	$(BIN)/fewbits auto $(DIGITS) $(SCORE) -o $(OUT)
	$(BIN)/fewbits analyze $(DIGITS) --precisions w8a8,w8a16 --analysis-samples 16 -o $(OUT)/analysis
	$(BIN)/fewbits report $(OUT)
	@echo "Files to ship: $(CURDIR)/$(OUT). Everything on one page:"
	@echo "$(CURDIR)/$(OUT)/report.html"
	@echo "fewbits is in $(CURDIR)/$(BIN) (. $(BIN)/activate); read on in docs/tutorial.md"

test: lint
	$(BIN)/pytest -n auto

test-slow: $(VENV)/.dev
	$(BIN)/pip install -q -e '.[dask,examples,ray]' -c constraints.txt
	$(BIN)/pytest -n auto -m slow

# installs Qualcomm's compiler and emulator, under Qualcomm's licence, and OpenVINO
test-qnn: $(VENV)/.dev
	$(BIN)/pip install -q -e '.[qnn,openvino]' -c constraints.txt
	$(BIN)/pytest -n auto tests/workflow/test_compile.py tests/workflow/test_lint.py tests/workflow/test_verify_place.py

# the documentation as a site, in build/site
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "fewbits needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install -q -e . -c constraints.txt
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install -q -e '.[dev,docs,torch]' -c constraints.txt
	@touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) $(OUT) .pytest_cache .mypy_cache .ruff_cache .hypothesis
