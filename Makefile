# Two commands do everything from a fresh checkout with only Python (3.11 or newer): make demo, make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT := demo-out

.PHONY: demo test test-slow lint clean

demo: $(VENV)/.demo
	$(BIN)/fewbits prepare examples/digits/digits.onnx --data examples/digits/calib.npz -o $(OUT)/prepared.onnx
	$(BIN)/fewbits baseline examples/digits/digits.onnx --data examples/digits/calib.npz \
	  --eval-data examples/digits/eval.npz --metric top1 --max-drop 0.5 -o $(OUT)/baseline
	$(BIN)/fewbits export $(OUT)/baseline -o $(OUT)/deploy
	$(BIN)/fewbits verify $(OUT)/deploy
	@echo "Every score, cost and reason: $(CURDIR)/$(OUT)/baseline/record.json; the files to ship: $(CURDIR)/$(OUT)/deploy"

test: lint
	$(BIN)/pytest -n auto

test-slow: $(VENV)/.dev
	$(BIN)/pytest -n auto -m slow

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
	$(BIN)/pip install -q -e '.[dev,torch]' -c constraints.txt
	@touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) $(OUT) .pytest_cache .mypy_cache .ruff_cache .hypothesis
