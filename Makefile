# make quickstart: a small Selfie, from nothing to a classifier and pictures. make test: lint and all tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help quickstart test lint clean

help:
	@echo "make quickstart   make $(VENV) if missing, pretrain on built-in images, finetune, export, compare"
	@echo "make test         make $(VENV) if missing, lint, run all tests"
	@echo "make clean        remove $(VENV) and runs/quickstart"

$(VENV)/.installed: requirements.txt requirements/dev.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	  "error: %s is Python %d.%d; TensorFlow 2.21 needs 3.11 to 3.13: make PYTHON=python3.12" % ("$(PYTHON)", *v))'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	@touch $@

RUNS := runs/quickstart
FINETUNE := $(BIN)/python bin/finetune.py --config=configs/finetune_quickstart.py

quickstart: $(VENV)/.installed
	$(BIN)/python bin/pretrain.py --config=configs/quickstart.py --workdir=$(RUNS)/pretrained
	$(FINETUNE) --config.init_from=$(RUNS)/pretrained --workdir=$(RUNS)/finetuned
	$(FINETUNE) --workdir=$(RUNS)/scratch
	test -d $(RUNS)/export || $(BIN)/python bin/export.py --workdir=$(RUNS)/finetuned --output=$(RUNS)/export
	@echo
	@echo "The same small network on 5 % of the labels, pretrained without labels and from scratch:"
	@$(BIN)/python bin/compare.py --runs=pretrained=$(RUNS)/finetuned,scratch=$(RUNS)/scratch \
	  --picture=$(RUNS)/comparison.png
	@echo
	@echo "Look at"
	@echo "  $(RUNS)/comparison.png                  training loss, test loss, test accuracy"
	@echo "  $(RUNS)/pretrained/figures/jigsaw.png   hidden patches, put where the model puts them"
	@echo "  $(RUNS)/export/README.md                the classifier as a SavedModel, and its card"
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
