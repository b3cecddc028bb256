# A backbone for images of a domain of your own: curate, go on from weights, hand on to a smaller student, and say what each step was worth.
#
#   make -f docs/domain-adaptation.mk IMAGES=photos/train VAL=photos/val INIT=run            from a run of yours
#   make -f docs/domain-adaptation.mk IMAGES=photos/train VAL=photos/val INIT=dinov2_vits14  from released weights (dinov2 models pull dinov2_vits14)
#
# Folders of classes in IMAGES and VAL are read by the scores only; nothing is trained on them. Each artefact is a target, so what is finished is not done again:
# raise a number, delete the folder it concerns, and run again. `make … adapted` and `make … student` stop before anything is trained from scratch for comparison.
#
#   DINOV2          the command                                     dinov2 where it is on the path, else node bin/run.js, from the root of the repository
#   OUT             where all artefacts go                          adaptation
#   STEPS           steps of the adapted and of the fresh backbone  200
#   STUDENT_STEPS   steps of both students                          200
#   BATCH           images a step                                   32
#   SIZE            side at which images are scored                 64; a multiple of the patch, about the size of the global crops
#   LR              highest rate of the adapted one, for 1024       empty: a tenth of that of INIT's own run, or 4e-4
#   SCRATCH_LR      the same for the fresh backbone                 0.006
#   STUDENT         recipe of the students                          distill-small
#   FLAGS           for every command that computes                 such as --threads 1

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: all adapted student clean

DINOV2        := $(if $(shell command -v dinov2),dinov2,node bin/run.js)
OUT           := adaptation
STEPS         := 200
STUDENT_STEPS := 200
BATCH         := 32
SIZE          := 64
LR            :=
SCRATCH_LR    := 0.006
STUDENT       := distill-small
FLAGS         :=

ifneq ($(filter-out clean,$(or $(MAKECMDGOALS),all)),)
  $(foreach name,IMAGES VAL INIT,$(if $($(name)),,$(error $(name) is not set: make -f docs/domain-adaptation.mk IMAGES=photos/train VAL=photos/val INIT=run)))
endif

LIST    := $(OUT)/train.jsonl
MODEL   := final/backbone.safetensors
ADAPTED := $(OUT)/adapted/$(MODEL)
SMALL   := $(OUT)/student/$(MODEL)
FRESH   := $(OUT)/scratch/$(MODEL)
ALONE   := $(OUT)/student-scratch/$(MODEL)

RUNS    := adapted scratch student student-scratch
KNN     := $(RUNS:%=$(OUT)/knn-%.json) $(OUT)/knn-init.json

# Settings with which nothing is taken over: random weights, one rate for all blocks, no steps for the heads alone.
RANDOM  := --set student.pretrained_weights= --set optim.base_lr=$(SCRATCH_LR) --set optim.layerwise_decay=1 --set optim.patch_embed_lr_mult=1 --set optim.head_warmup_epochs=0

all: $(KNN) $(OUT)/linear.json $(OUT)/report.html
	@echo
	@echo "Done. Look at:"
	@echo "  $(OUT)/curation.html               what was left out of the pool, and why"
	@echo "  $(OUT)/knn-*.html, linear.html     what each model is worth, with intervals and confusions"
	@echo "  $(OUT)/report.html                 how the runs went: losses, health, settings"
adapted: $(ADAPTED)
student: $(SMALL)

# What cannot be learnt from is left out, of near-duplicates one is kept, and no picture of VAL is learnt from.
$(LIST): | $(IMAGES)
	mkdir -p $(OUT)
	$(DINOV2) curate $(IMAGES) --decontaminate-against $(VAL) -o $@ --rejected $(OUT)/rejected.jsonl --html $(OUT)/curation.html $(FLAGS) --force

# Status 6 is a verdict on a run, which is printed; the model is there all the same, and the scores say what it is worth.
$(ADAPTED): $(LIST)
	$(DINOV2) pretrain $< --init $(INIT) --batch $(BATCH) --set train.steps=$(STEPS) $(if $(LR),--set optim.base_lr=$(LR)) -o $(OUT)/adapted $(FLAGS) --force || test $$? -eq 6

$(SMALL): $(ADAPTED)
	$(DINOV2) distill $(LIST) --teacher $(OUT)/adapted --config $(STUDENT) --batch $(BATCH) --set train.steps=$(STUDENT_STEPS) -o $(OUT)/student $(FLAGS) --force || test $$? -eq 6

# Beside these, the same backbone and the same student from random weights, with the settings of the run folders above. The backbone needs other rates to start from nothing.
$(FRESH): $(ADAPTED)
	$(DINOV2) pretrain $(LIST) --config $(OUT)/adapted/config.yaml $(RANDOM) -o $(OUT)/scratch $(FLAGS) --force || test $$? -eq 6

$(ALONE): $(SMALL)
	$(DINOV2) pretrain $(LIST) --config $(OUT)/student/config.yaml -o $(OUT)/student-scratch $(FLAGS) --force || test $$? -eq 6

SCORES := --train $(IMAGES) --val $(VAL) --size $(SIZE) $(FLAGS)

# Nearest neighbours, beside raw pixels and beside the same architecture untrained.
$(RUNS:%=$(OUT)/knn-%.json): $(OUT)/knn-%.json: $(OUT)/%/$(MODEL)
	$(DINOV2) knn-eval $(SCORES) --model $(OUT)/$* -k 10,20 --baseline pixels --baseline untrained -o $@ --html $(@:.json=.html) --force

$(OUT)/knn-init.json: $(LIST)
	$(DINOV2) knn-eval $(SCORES) --model $(INIT) -k 10,20 --baseline pixels --baseline untrained -o $@ --html $(@:.json=.html) --force

# One linear layer. The first model is compared with each of the others, image by image; the untrained baseline has its architecture.
MODELS := --model $(OUT)/adapted --model $(INIT) --model $(OUT)/scratch --model $(OUT)/student --model $(OUT)/student-scratch
$(OUT)/linear.json: $(ADAPTED) $(FRESH) $(SMALL) $(ALONE)
	$(DINOV2) linear-eval $(SCORES) $(MODELS) --cached --steps 1000 --baseline majority --baseline pixels --baseline untrained -o $@ --html $(OUT)/linear.html --force

$(OUT)/report.html: $(ADAPTED) $(FRESH) $(SMALL) $(ALONE)
	$(DINOV2) report $(OUT)/adapted $(OUT)/scratch $(OUT)/student $(OUT)/student-scratch -o $@ --force

clean:
	rm -rf $(OUT)
