# make quickstart: a small network, from nothing to a classifier and pictures. make help: all targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help quickstart quickstart-finetuned quickstart-scratch
.PHONY: lint check test test-tpu-lane test-addons-lane test-aot check-tpu tpu-table docs clean

help:
	@echo "make quickstart   pretrain on built-in images, finetune, export, compare"
	@echo "make check        lint, and the tests that start no process"
	@echo "make test         lint, and all tests"
	@echo "make docs         build the documentation into build/docs"
	@echo "make test-tpu-lane, test-addons-lane"
	@echo "                  all tests with the TensorFlow of TPUs, and with that of TensorFlow Addons"
	@echo "make check-tpu    compile the papers' train steps for TPUs; needs none"
	@echo "make clean        remove what these made: environments, build and runs/quickstart"
	@echo "Each first makes the virtual environment that it needs, $(VENV) for most."

# make_venv FOLDER,REQUIREMENTS,OLDEST,NEWEST: of Python 3
define make_venv
@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, $(3)) <= v <= (3, $(4)) else \
  "error: %s is Python %d.%d; $(2) needs 3.$(3) to 3.$(4): make PYTHON=python3.$(3)" % ("$(PYTHON)", *v))'
$(PYTHON) -m venv $(1)
$(1)/bin/python -m pip install --quiet --disable-pip-version-check -r $(2)
@touch $(1)/.installed
endef

$(VENV)/.installed: requirements.txt
	$(call make_venv,$(VENV),requirements.txt,11,13)

$(VENV)/.dev-installed: $(VENV)/.installed requirements/dev.txt requirements/test.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	@touch $@

$(VENV)-tpu/.installed: requirements/test-tpu.txt requirements/lanes.txt requirements/test.txt
	$(call make_venv,$(VENV)-tpu,requirements/test-tpu.txt,11,12)

$(VENV)-addons/.installed: requirements/test-addons.txt requirements/addons.txt requirements/lanes.txt requirements/test.txt
	$(call make_venv,$(VENV)-addons,requirements/test-addons.txt,11,11)

$(VENV)-aot/.installed: requirements/aot.txt requirements.txt requirements/test.txt
	$(call make_venv,$(VENV)-aot,requirements/aot.txt,11,13)

$(VENV)/.docs-installed: $(VENV)/.dev-installed requirements/docs.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/docs.txt
	@touch $@

RUNS := runs/quickstart
# Selfie as published: make quickstart PRETRAIN=quickstart RUNS=runs/published
PRETRAIN := quickstart_plus
FINETUNE := $(BIN)/python bin/finetune.py --config=configs/finetune_quickstart.py

# Networks as small as these are faster with one thread per operation; two finetunings then share two cores.
quickstart: export TF_NUM_INTRAOP_THREADS ?= 1
quickstart: $(VENV)/.installed
	$(BIN)/python bin/pretrain.py --config=configs/$(PRETRAIN).py --workdir=$(RUNS)/pretrained
	@$(MAKE) --no-print-directory -j2 quickstart-finetuned quickstart-scratch
	test -d $(RUNS)/export || $(BIN)/python bin/export.py --workdir=$(RUNS)/finetuned --output=$(RUNS)/export
	@echo
	@echo "The same small network on 5 % of the labels, pretrained without labels and from scratch:"
	@$(BIN)/python bin/compare.py --runs=pretrained=$(RUNS)/finetuned,scratch=$(RUNS)/scratch \
	  --picture=$(RUNS)/comparison.png
	@echo
	@echo "Look at"
	@echo "  $(RUNS)/comparison.png                  training loss, test loss, test accuracy"
	@echo "  $(RUNS)/pretrained/report.html          the pretrained network: curves and pictures"
	@echo "  $(RUNS)/finetuned/report.html           the classifier on one page, with its surest mistakes"
	@echo "  $(RUNS)/export/README.md                the classifier as a SavedModel, and its card"
	@echo "Next, your own images:"
	@echo "  $(BIN)/python bin/pretrain.py --config=configs/$(PRETRAIN).py \\"
	@echo "    --config.data.name=folder:PATH/TO/IMAGES --workdir=runs/mine"

quickstart-finetuned:
	$(FINETUNE) --config.init_from=$(RUNS)/pretrained --workdir=$(RUNS)/finetuned

# At the same time as the other, so it keeps its lines to itself.
quickstart-scratch:
	@echo "From scratch, at the same time; its lines go to $(RUNS)/scratch.log"
	@$(FINETUNE) --config.init_from=$(RUNS)/pretrained --config.from_scratch=True --workdir=$(RUNS)/scratch \
	  > $(RUNS)/scratch.log 2>&1 || { tail -n 3 $(RUNS)/scratch.log; exit 1; }

lint: $(VENV)/.dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# TESTS=tests/unit/test_x.py runs one file.
TESTS ?= tests
PYTEST := -m pytest -n 2 --dist=loadfile $(TESTS)

check: lint
	$(BIN)/python -m pytest -n 2 --dist=worksteal tests/unit
	@echo "Lint and the tests that start no process passed. Next: make test"

test: lint
	$(BIN)/python $(PYTEST)
	@echo "Lint and all tests passed. Next: make quickstart"

test-tpu-lane: $(VENV)-tpu/.installed
	$(VENV)-tpu/bin/python $(PYTEST)

test-addons-lane: $(VENV)-addons/.installed
	$(VENV)-addons/bin/python $(PYTEST)

test-aot: $(VENV)-aot/.installed
	$(VENV)-aot/bin/python -m pytest tests/unit/test_tpu.py tests/runs/test_lowering.py

CHECKED := selfie_cifar10 selfie_imagenet224 patchformer_imagenet224

check-tpu: test-aot
	@for config in $(CHECKED); do \
	  $(VENV)-aot/bin/python bin/check_tpu.py --config=configs/$$config.py \
	    --config.train.precision=mixed_bfloat16 --topology=v3:2x2,v5e:2x4 || exit; \
	done

# docs/TPU.md's table; an hour or more on two cores. After an interruption it resumes with the next config.
TABLE := selfie_cifar10 selfie_imagenet32 selfie_imagenet224 patchformer_imagenet224 finetune_imagenet224
FIGURES := $(TABLE:%=build/tpu/%.json)

build/tpu/%.json: configs/%.py $(wildcard selfie_tf/*.py selfie_tf/*/*.py) | $(VENV)-aot/.installed
	mkdir -p build/tpu
	rm -f $@
	$(VENV)-aot/bin/python bin/check_tpu.py --config=$< --json=$@ \
	  --config.train.precision=mixed_bfloat16 \
	  --topology=v2:2x2,v3:2x2,v4:2x2x1,v5e:2x4,v6e:2x4 || test -f $@  # a rejection is a result, too

tpu-table: $(FIGURES)
	$(VENV)-aot/bin/python -m selfie_tf.benchmarks.tpu.report docs/TPU.md $(FIGURES)

# Everything is read anew (-E), or a page that did not change would keep its warnings to itself.
docs: $(VENV)/.docs-installed
	$(BIN)/python -m sphinx -b html -W --keep-going -n -q -E docs build/docs
	@echo "Built build/docs/index.html"

clean:
	rm -rf $(VENV) $(VENV)-tpu $(VENV)-addons $(VENV)-aot build runs/quickstart docs/reference docs/changelog.md docs/contributing.md
