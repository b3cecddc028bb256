# From weights that know other pictures to a small model for yours: curate, go on training, distil, and score everything beside training from scratch.
#
#   make -f docs/domain-adaptation.mk IMAGES=photos VAL=labelled/val INIT=dinov2_vits14
#
#   IMAGES   your pictures; folders that name classes are used for scoring only      VAL    labelled pictures that take no part in training
#   INIT     where to start: a run folder, a checkpoint, or a released model         LABELLED  labelled pictures for the linear layer (IMAGES, if not set)
#   OUT      where everything goes (adapted)       STEPS   steps of each run         BATCH   images a step       SIZE    side at which pictures are scored
#   STUDENT  recipe of the student (distill-small)   DINOV2  how the program is called   FLAGS  for every command, such as --threads 1
#
# docs/domain-adaptation.md tells what each step is for. Each artefact is a target, so what is finished is not done again.

SHELL  := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: all

DINOV2   ?= node bin/run.js
OUT      ?= adapted
STEPS    ?= 1000
BATCH    ?= 32
SIZE     ?= 64
STUDENT  ?= distill-small
LABELLED ?= $(IMAGES)
FLAGS    ?=
ifeq ($(and $(IMAGES),$(VAL),$(INIT)),)
  $(error Name your pictures, labelled pictures to score on, and weights to start from: IMAGES=photos VAL=labelled/val INIT=run)
endif

RUN      := --set train.steps=$(STEPS) --batch $(BATCH) $(FLAGS)
FINAL    := final/backbone.safetensors
# Status 6 is a verdict on a run, which is printed; the model is there all the same, and the scores say what it is worth.
VERDICT  := || test $$? -eq 6

all: $(OUT)/scores.json $(OUT)/knn.json
	@echo "Done: $(OUT)/scores.json and $(OUT)/scores.html (linear layers on frozen features), $(OUT)/knn.json (nearest neighbours), $(OUT)/student/$(FINAL) (the small model)."

# What is unreadable, flat, blurred or twice there teaches nothing.
$(OUT)/train.jsonl:
	mkdir -p $(OUT)
	$(DINOV2) curate $(IMAGES) -o $@ --force

# Sizes, crops, heads and a gentle learning rate follow from the weights.
$(OUT)/tuned/$(FINAL): $(OUT)/train.jsonl
	$(DINOV2) pretrain $< --init $(INIT) $(RUN) -o $(OUT)/tuned --force $(VERDICT)

# The same network, images and steps from random weights, at the learning rate of a run that begins (base_lr is that of the small recipe).
$(OUT)/scratch/$(FINAL): $(OUT)/train.jsonl $(OUT)/tuned/$(FINAL)
	$(DINOV2) pretrain $< --config $(OUT)/tuned/config.yaml --set student.pretrained_weights= --set optim.head_warmup_epochs=0 \
	  --set optim.base_lr=0.008 --set optim.layerwise_decay=1 $(RUN) -o $(OUT)/scratch --force $(VERDICT)

# A small student of what came out.
$(OUT)/student/$(FINAL): $(OUT)/train.jsonl $(OUT)/tuned/$(FINAL)
	$(DINOV2) distill $< --teacher $(OUT)/tuned --config $(STUDENT) $(RUN) -o $(OUT)/student --force $(VERDICT)

# One linear layer on frozen features of each; the first is compared with the others, image by image.
MODELS := $(OUT)/tuned $(OUT)/scratch $(OUT)/student
$(OUT)/scores.json: $(MODELS:%=%/$(FINAL))
	$(DINOV2) linear-eval --train $(LABELLED) --val $(VAL) $(MODELS:%=--model %) --model $(INIT) --size $(SIZE) --cached --steps 500 \
	  --baseline majority --baseline pixels $(FLAGS) -o $@ --html $(OUT)/scores.html --force

# Nearest neighbours need no training at all.
$(OUT)/knn.json: $(MODELS:%=%/$(FINAL))
	for model in $(MODELS) $(INIT); do \
	  $(DINOV2) knn-eval --train $(LABELLED) --val $(VAL) --model $$model --size $(SIZE) -k 10 --baseline none $(FLAGS) --json \
	    | sed "s|^{|{\"set\":\"$$model\",|"; done > $@
