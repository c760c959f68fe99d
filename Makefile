# make quickstart: a small Selfie, from nothing to a picture. make test: lint and all tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help quickstart test lint clean

help:
	@echo "make quickstart   make $(VENV) if missing, pretrain on built-in images, draw the jigsaw"
	@echo "make test         make $(VENV) if missing, lint, run all tests"
	@echo "make clean        remove $(VENV) and runs/quickstart"

$(VENV)/.installed: requirements.txt requirements/dev.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	  "error: %s is Python %d.%d; TensorFlow 2.21 needs 3.11 to 3.13: make PYTHON=python3.12" % ("$(PYTHON)", *v))'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	@touch $@

quickstart: $(VENV)/.installed
	$(BIN)/python bin/pretrain.py --config=configs/quickstart.py --workdir=runs/quickstart
	@echo
	@echo "Pretrained a small Selfie on built-in images, without labels. Look at"
	@echo "  runs/quickstart/figures/jigsaw.png   hidden patches, put where the model puts them"
	@echo "  runs/quickstart/result.json          what it reached"
	@echo "Next, your own images:"
	@echo "  $(BIN)/python bin/pretrain.py --config=configs/quickstart.py \\"
	@echo "    --config.data.name=folder:PATH/TO/IMAGES --workdir=runs/mine"

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint
	$(BIN)/python -m pytest -n 2 --dist=loadfile
	@echo "Lint and all tests passed. Next: make quickstart"

clean:
	rm -rf $(VENV) runs/quickstart
