# dinov2 from a fresh clone.
#
#   make demo                 set everything up, then go the whole way on real pictures (about 10 minutes on 2 cores; with AVX-512, training takes a quarter of the time)
#   make demo IMAGES=photos   the same on a folder of yours; sub-folders that name classes are used for scoring only
#   make test                 everything that is held true
#   make bundle               one archive for machines without a network
#   make bench                speed beside PyTorch and others, on this machine
#
# The demo is written as a Makefile that you might copy: each artefact is a target, so what is finished is not done again.

SHELL  := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: demo after test test-distributed test-transformers-js setup build bench bundle clean

DINOV2 := node bin/run.js
CACHE  := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/dinov2
OUT    := demo

# ------------------------------------------------------------------------------------------------------------------- setup

# Three compilations of one thread each (the graph index, the program, the page of explore) run side by side.
GRAPH := node_modules/hnswlib-node/build/Release/addon.node

setup: node_modules/.package-lock.json
	@$(MAKE) -j3 --no-print-directory $(GRAPH) build
	$(DINOV2) engine install torch --yes

node_modules/.package-lock.json: package-lock.json
	npm ci --ignore-scripts
	touch $@

$(GRAPH): node_modules/.package-lock.json
	npm rebuild hnswlib-node
	touch $@

SOURCES := $(shell find bin src commands configs scripts test bench -name '*.ts' -o -name '*.js' -o -name '*.yaml' -o -name '*.html' -o -name '*.css') tsconfig.json package.json
build: dist/stamp
dist/stamp: $(SOURCES) node_modules/.package-lock.json
	npx tsc -p src/page & page=$$!; npx tsc -p . && wait $$page
	node scripts/bundle.js
	touch $@

# -------------------------------------------------------------------------------------------------------------------- demo

# Where the pictures come from: yours, a set that lies beside the project, or pictures that the tool draws.
BESIDE := ../shared/data/cls-scenes6
ifdef IMAGES
  TRAIN := $(firstword $(wildcard $(IMAGES)/train) $(IMAGES))
  VAL   := $(wildcard $(IMAGES)/val)
else ifneq ($(wildcard $(BESIDE)/train),)
  TRAIN := $(BESIDE)/train
  VAL   := $(BESIDE)/val
else
  TRAIN := $(OUT)/samples/train
  VAL   := $(OUT)/samples/val
  DRAWN := yes
endif

# Some pictures to ask with and to look at: every so many of the test set, or of the pictures themselves.
QUERIES := $(or $(VAL),$(TRAIN))
MODEL   := $(OUT)/run/final/backbone.safetensors
# As many images either way. From drawn pictures many steps of few images learn more; from photos they do not (docs/small-data.md).
BATCH   := $(if $(DRAWN),16,64)
STEPS   := $(if $(DRAWN),1200,300)
STUDENT := $(OUT)/student/final/backbone.safetensors
VIEW    := --size 96
LOOK    := --size 192 --no-foreground
# A small model that comes with the program: something to look at before the first step of training.
STARTER := starter
# Pictures whose every pixel is known, for heads that tell depth and regions.
SCENES  := $(OUT)/scenes
DENSE   := --train $(SCENES)/train --val $(SCENES)/val --model $(MODEL) --cached --size 96

# What follows training depends on little but the model, so two commands run at a time, each on half of the cores.
HALF := $(shell n=$$(( ($$(nproc 2>/dev/null || echo 2) + 1) / 2 )); echo $$n)

demo: $(OUT)/first.html $(MODEL)
	@echo "Scores, a smaller student, search, pictures and a map of them (4 minutes; two commands at a time, so lines come late)"
	@DINOV2_THREADS=$(HALF) $(MAKE) -j2 --output-sync=target --no-print-directory after
	@echo
	@echo "Done. Features beside raw pixels, a histogram of colours, the untrained model, and the model that comes with the program:"
	@cat $(OUT)/linear.txt
	@echo "Look at $(OUT)/index.html, which links everything that was made; the model runs in a page with: $(DINOV2) explore --serve -o $(OUT)/site"

after: $(STUDENT) $(OUT)/scores $(OUT)/neighbours.jsonl $(OUT)/neighbours.html $(OUT)/neighbours.png $(OUT)/pca.png $(OUT)/report.html $(OUT)/depth.png $(OUT)/regions.png $(OUT)/site/index.html $(OUT)/onnx/config.json $(OUT)/index.html

$(OUT)/scores: $(OUT)/knn.json $(OUT)/linear.json $(OUT)/retrieval.json $(OUT)/depth.json $(OUT)/regions.json
	touch $@

ifneq ($(filter $(OUT)/samples/%,$(TRAIN)),)
$(OUT)/samples/train: | setup
	@echo "No pictures were named and none lie beside: drawing a set of 16 kinds. Your own: make demo IMAGES=folder"
	mkdir -p $(OUT)
	$(DINOV2) samples draw -o $(OUT)/samples --per-class 100 --val-per-class 40 --size 64
$(OUT)/samples/val: $(OUT)/samples/train
endif

# First pictures, before anything is trained: nearest neighbours by the model that comes with the program.
$(OUT)/first.html: $(OUT)/queries.txt
	@echo "Nearest neighbours by the small model that comes with the program (half a minute): $@"
	$(DINOV2) embed $(TRAIN) --model $(STARTER) $(VIEW) -o $(OUT)/first.arrow --force
	$(DINOV2) index $(OUT)/first.arrow -o $(OUT)/first.index --force
	$(DINOV2) search $(OUT)/first.index $(OUT)/queries.txt --model $(STARTER) -k 8 -o $(OUT)/first.jsonl --force
	$(DINOV2) visualize neighbours $(OUT)/first.jsonl -o $@ --force
	@echo "Open $@ now; the rest takes some minutes."

# From a raw pool to a set worth training on: what cannot be learnt from is left out, and of near-duplicates one is kept.
$(OUT)/train.jsonl: | setup $(TRAIN) $(OUT)/first.html
	@echo "Curation: what cannot be learnt from goes, and all but one of near-duplicates (half a minute)"
	mkdir -p $(OUT)
	$(DINOV2) curate $(TRAIN) -o $@ --rejected $(OUT)/rejected.jsonl --html $(OUT)/curation.html --force

$(MODEL): $(OUT)/train.jsonl
	@echo "Training from scratch, $(STEPS) steps of $(BATCH) images: the longest part (1 to 5 minutes on 2 cores)"
	# Status 6 is a verdict on the run, which is printed; the model is there all the same, and the scores below say what it is worth.
	$(DINOV2) pretrain $(OUT)/train.jsonl --config tiny --set train.batch_size_per_gpu=$(BATCH) --set train.steps=$(STEPS) -o $(OUT)/run --force || test $$? -eq 6

# A quarter of the parameters, taught by the model just trained; scored beside it where folders name classes.
$(STUDENT): $(MODEL)
	@echo "A smaller student of that model"
	@classes=$$(find $(TRAIN) -mindepth 1 -maxdepth 1 -type d | wc -l); set -x; \
	$(DINOV2) distill $(OUT)/train.jsonl --teacher $(OUT)/run --config distill-small --set student.embed_dim=64 --set student.depth=4 --set student.num_heads=2 --set train.steps=150 -o $(OUT)/student --force --json \
	  $$(if [ "$$classes" -ge 2 ]; then echo --eval-images $(TRAIN) $(if $(VAL),--eval-val $(VAL)) --eval-every 150; fi) > $(OUT)/student.json || test $$? -eq 6

$(OUT)/features.arrow: $(MODEL)
	$(DINOV2) embed $(TRAIN) --model $< $(VIEW) -o $@ --force

$(OUT)/photos.index: $(OUT)/features.arrow
	$(DINOV2) index $< -o $@ --force

$(OUT)/queries.txt: | setup $(QUERIES)
	find $(QUERIES) -type f \( -iname '*.jpg' -o -iname '*.jpeg' -o -iname '*.png' -o -iname '*.webp' \) | LC_ALL=C sort | awk -v n="$$(find $(QUERIES) -type f | wc -l)" 'NR % int(n / 12 + 1) == 1' | sed "s|^|$(CURDIR)/|; s|$(CURDIR)//|/|" > $@

$(OUT)/neighbours.jsonl: $(OUT)/photos.index $(OUT)/queries.txt $(MODEL)
	$(DINOV2) search $< $(OUT)/queries.txt --model $(MODEL) -k 8 -o $@ --force

# The rows of search as pictures, once as a page and once as one PNG.
$(OUT)/neighbours.html $(OUT)/neighbours.png: $(OUT)/neighbours.jsonl
	$(DINOV2) visualize neighbours $< -o $@ --force

$(OUT)/pca.png: $(OUT)/queries.txt $(MODEL)
	$(DINOV2) visualize pca $(OUT)/queries.txt --model $(MODEL) $(LOOK) -o $@ --force

# Is the model worth anything? Against raw pixels and against itself before training, by nearest neighbours. Needs folders that name classes.
$(OUT)/knn.json: $(MODEL)
	@if [ "$$(find $(TRAIN) -mindepth 1 -maxdepth 1 -type d | wc -l)" -ge 2 ]; then \
	  set -x; $(DINOV2) knn-eval --train $(TRAIN) $(if $(VAL),--val $(VAL)) --model $< $(VIEW) -k 10,20 --baseline pixels --baseline histogram --baseline untrained -o $@ --force; \
	else echo '{}' > $@; echo "$(TRAIN) has no folders that name classes, so nothing is scored."; fi

# One linear layer on frozen features of all models at hand; needs a second set to score on.
$(OUT)/linear.json: $(MODEL) $(STUDENT)
	@rm -f $(OUT)/linear.txt
	@if [ -n "$(VAL)" ] && [ "$$(find $(TRAIN) -mindepth 1 -maxdepth 1 -type d | wc -l)" -ge 2 ]; then \
	  set -x; $(DINOV2) linear-eval --train $(TRAIN) --val $(VAL) --model $(OUT)/run --model $(OUT)/student --model $(STARTER) $(VIEW) --cached --steps 1000 --baseline majority --baseline pixels --baseline histogram --baseline untrained -o $@ --html $(OUT)/linear.html --head-out $(OUT)/classes.safetensors --force | tee $(OUT)/linear.txt; \
	else echo '{}' > $@; echo "No scores: there is no second set with folders that name classes." > $(OUT)/linear.txt; echo "No second set with folders that name classes (IMAGES/val), so no classifier is scored."; fi

# Do pictures of one kind find one another?
$(OUT)/retrieval.json: $(MODEL)
	@if [ "$$(find $(QUERIES) -mindepth 1 -maxdepth 1 -type d | wc -l)" -ge 2 ]; then \
	  set -x; $(DINOV2) retrieval-eval $(QUERIES) --model $< $(VIEW) --query all -o $@ --force; \
	else echo '{}' > $@; fi

# Depth and regions from patch features, on drawn scenes.
$(SCENES)/samples.json: | setup
	mkdir -p $(OUT)
	$(DINOV2) samples draw -o $(SCENES) --maps --per-class 10 --val-per-class 3 --force

$(OUT)/depth.json: $(MODEL) $(SCENES)/samples.json
	$(DINOV2) depth-eval $(DENSE) --depths $(SCENES)/depth --max-depth 10 --steps 300 -o $@ --html $(OUT)/depth.html --head-out $(OUT)/depth.safetensors --force

$(OUT)/regions.json: $(MODEL) $(SCENES)/samples.json
	$(DINOV2) seg-eval $(DENSE) --masks $(SCENES)/masks --steps 300 -o $@ --html $(OUT)/regions.html --head-out $(OUT)/regions.safetensors --force

$(OUT)/depth.png: $(OUT)/depth.json
	$(DINOV2) visualize depth $(SCENES)/val --depths $(SCENES)/depth/val --model $(MODEL) --head $(OUT)/depth.safetensors --limit 8 -o $@ --force

$(OUT)/regions.png: $(OUT)/regions.json
	$(DINOV2) visualize segment $(SCENES)/val --model $(MODEL) --head $(OUT)/regions.safetensors --limit 8 -o $@ --force

# The model for onnxruntime and transformers.js.
$(OUT)/onnx/config.json: $(MODEL)
	$(DINOV2) export $< --to onnx --size 96 -o $(OUT)/onnx --force

# The pictures as a map, in a page in which the model computes.
$(OUT)/site/index.html: $(OUT)/features.arrow $(MODEL)
	$(DINOV2) explore $< --model $(MODEL) -o $(OUT)/site --title "Pictures of the demo" --force

$(OUT)/report.html: $(MODEL) $(OUT)/knn.json
	cp $(OUT)/knn.json $(OUT)/run/knn.json
	$(DINOV2) report $(OUT)/run -o $@ --force

# Tables of text as HTML: columns are two or more spaces apart, lines of fewer than four columns are sentences.
AS_TABLES := NF < 4 { if (rows) print "</table>"; rows = 0; if (NF) print "<p>" $$0; next } \
  { if (!rows) print "<table>"; cell = rows++ ? "<td>" : "<th>"; printf "<tr>"; for (i = 1; i <= NF; i++) printf "%s%s", cell, $$i; print "" } \
  END { if (rows) print "</table>" }

# One page that links all others.
PAGES := site/index.html:'A map of the pictures' first.html:'Nearest neighbours before training, by the model that comes with the program' curation.html:'What curation left out, and why' \
  report.html:'How training went: losses, health, scores' neighbours.html:'Nearest neighbours by the trained model' pca.png:'Patch features as colours' \
  linear.html:'Classes read out by one linear layer, beside all baselines' depth.html:'Depth on drawn scenes' depth.png:'Depth maps' \
  regions.html:'Regions on drawn scenes' regions.png:'Region maps' onnx/README.md:'The model as ONNX, for onnxruntime and transformers.js'
$(OUT)/index.html: $(OUT)/scores $(OUT)/onnx/config.json $(OUT)/site/index.html $(OUT)/report.html $(OUT)/neighbours.html $(OUT)/pca.png $(OUT)/depth.png $(OUT)/regions.png
	@{ echo '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>dinov2: the demo</title>'; \
	  echo '<style>body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem } table { border-collapse: collapse; font-size: 14px } th, td { text-align: right; vertical-align: top; padding: .1em .4em } th:first-child, td:first-child, th:last-child, td:last-child { text-align: left } @media (max-width: 30rem) { table { font-size: 11px } th, td { padding: .1em .2em } } img { max-width: 100% }</style>'; \
	  echo '<h1>What the demo made</h1><ul>'; \
	  for entry in $(PAGES); do page=$${entry%%:*}; if [ -e "$(OUT)/$$page" ]; then echo "<li><a href=\"$$page\">$${entry#*:}</a>"; fi; done; \
	  echo '</ul><p>To try the model itself in the map: <code>$(DINOV2) explore --serve -o $(OUT)/site</code></p><h2>Scores of one linear layer on frozen features</h2>'; sed 's/&/\&amp;/g; s/</\&lt;/g' $(OUT)/linear.txt | awk -F '   *' '$(AS_TABLES)'; echo '<p><img src="pca.png" alt="Patch features as colours">'; } > $@

# -------------------------------------------------------------------------------------------------------------------- test

PYTHON := $(CACHE)/test-python
$(PYTHON)/stamp: test/python/requirements.txt
	python3 -m venv $(PYTHON)
	$(PYTHON)/bin/pip install --quiet -r $<
	touch $@

# The page of explore is tested in a browser: Chromium, or a Chrome named in DINOV2_TEST_BROWSER.
test: setup $(PYTHON)/stamp
	npx eslint .
	npx prettier --check --log-level warn .
	node --test --test-concurrency=2 --test-reporter=spec $$(find dist/test -name '*.test.js' | LC_ALL=C sort)

# Training in several processes at length: more processes, 20 kills.
test-distributed: setup
	DINOV2_TEST_PROCESSES=all node --test --test-reporter=spec dist/test/tasks/train/processes.test.js

# Exported ONNX models in transformers.js and onnxruntime for Node, half a gigabyte of packages.
test-transformers-js: setup
	npm install --prefix $(CACHE)/transformers-js --no-save @huggingface/transformers@4.3.2
	node dist/test/javascript/transformers-js.js $(CACHE)/transformers-js

# One archive for machines without a network: make bundle, or make bundle WITH="model.pth run" to take models along.
bundle: build
	node scripts/offline-bundle.js $(foreach model,$(WITH),--with $(model))

bench: setup
	bash bench/all

clean:
	rm -rf dist $(OUT)
