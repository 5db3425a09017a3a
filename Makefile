# The study from the command line. `make` alone lists what can be made.

PYTHON ?= python3
SETUP_GB ?= 7
MINUTES ?= 5
RUN = .venv/bin/python -m

# A variable that no target reads is refused, before anything is made.
KNOWN = SCALE SEEDS EPOCHS DATA TEST DEVICE JOBS ENGINE RAY_ADDRESS GPUS_PER_RUN OUT STUDY ARGS \
  WANDB_% PYTHON SETUP_GB MINUTES OMP_NUM_THREADS INCEPTION_WEIGHTS PIP_% UV_%
GIVEN = $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
UNKNOWN = $(firstword $(filter-out $(KNOWN) $(if $(filter audit,$(MAKECMDGOALS)),RUNDIR),$(GIVEN)))
ifneq ($(UNKNOWN),)
$(error $(UNKNOWN)= is not one of $(KNOWN))
endif

# Modules stay compiled in .venv: PyTorch is imported many times, and takes three times as long else.
export PYTHONDONTWRITEBYTECODE =

# Options are passed on where they are set, quoted for the shell.
quote = '$(subst ','\'',$(1))'
option = $(if $(2),--$(1) $(call quote,$(2)))
OPTIONS = $(call option,scale,$(SCALE)) $(call option,seeds,$(SEEDS)) \
  $(call option,epochs,$(EPOCHS)) $(call option,data,$(DATA)) $(call option,test,$(TEST)) \
  $(call option,device,$(DEVICE)) $(call option,jobs,$(JOBS)) \
  $(call option,engine,$(ENGINE)) $(call option,ray-address,$(RAY_ADDRESS)) \
  $(call option,gpus-per-run,$(GPUS_PER_RUN)) $(call option,out,$(OUT))
PLACE = $(call option,out,$(OUT)) $(if $(STUDY),$(call quote,$(STUDY)))

# .venv is ready when it holds the lock that it was built from.
STALE = $(shell test -x .venv/bin/python && cmp -s requirements.lock .venv/requirements.lock \
  || echo build)
STOP = sh -c 'echo "make $(@:build=setup): $$0" >&2; exit 2'

##@ Set up
help: ## list the targets
	@awk -F ':.*## ' '/^##@ / { print "\n" substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-11s%s\n", $$1, $$2 }' Makefile
	@printf '\n%s\n' 'Variables: SCALE= SEEDS= EPOCHS= DATA= TEST= DEVICE= JOBS= ENGINE= OUT= STUDY= WANDB_MODE=' \
	  'RAY_ADDRESS= and GPUS_PER_RUN= are for ENGINE=ray; INCEPTION_WEIGHTS= for FID' \
	  'ARGS= is passed on unchanged: make ablation SCALE=small ARGS="head=avgpool norm=none"'

setup: $(STALE) ## build .venv from requirements.lock, once

lock: setup ## update requirements.lock to pyproject.toml; ARGS=--upgrade takes newer versions
	@.venv/bin/uv pip compile pyproject.toml --all-extras --quiet --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-annotate --no-emit-index-url \
	  --output-file requirements.lock $(ARGS)

##@ Run a study
ablation: setup ## train, score and report the grid; SCALE=cpu32 is the published study
	@$(RUN) experiments ablation $(OPTIONS) $(ARGS)

followups: setup ## train, score and report one change at a time, and images of one class
	@$(RUN) experiments followups $(OPTIONS) $(ARGS)
	@$(RUN) experiments kinds $(OPTIONS) $(filter-out arm=%,$(ARGS))

precision: setup ## train, score and report training in float32, TF32 and bfloat16
	@$(RUN) experiments precision $(OPTIONS) $(ARGS)

status: setup ## what is done, running, failed and missing in the newest study, or in STUDY
	@$(RUN) experiments status $(PLACE) $(ARGS)

resample: setup ## score finished runs of the newest study, or of STUDY, on more evaluation sets
	@$(RUN) experiments resample $(PLACE) $(call option,device,$(DEVICE)) \
	  $(call option,jobs,$(JOBS)) $(ARGS)

.PHONY: banks audit
banks:
	@$(STOP) "this is called make resample now"
audit:
	@$(STOP) "this is gone: the report says how far to trust scores, make resample adds evaluation sets"

##@ Results
report: setup ## build the report of every study in OUT again, or of STUDY
	@set -- $(if $(STUDY),$(call quote,$(STUDY)),$(call quote,$(or $(OUT),runs))/*/study.json); \
	  $(if $(STUDY),,test -f "$$1" || { $(STOP) "there is no study in $(or $(OUT),runs)"; exit 2; };) \
	  code=0; \
	  for study; do $(RUN) reports --from "$${study%/study.json}" $(ARGS) || code=$$?; done; \
	  exit $$code

samples: setup ## draw 64 images with a published generator, into a new samples.png; needs no data
	@$(RUN) dcgan sample batch=128 -n 64 --grid samples.png $(call option,device,$(DEVICE)) $(ARGS)

dashboard: setup ## show the newest study, or STUDY, in W&B's terminal dashboard
	@$(RUN) experiments dashboard $(PLACE) $(ARGS)

sync: setup ## upload the offline runs of the newest study, or of STUDY, to W&B
	@$(RUN) experiments sync $(PLACE) $(ARGS)

workspace: setup ## build a workspace on W&B for the newest study, or for STUDY
	@$(RUN) experiments workspace $(PLACE) $(ARGS)

publish: setup ## pack complete seeds of the newest study, or of STUDY, into reports/published
	@$(RUN) experiments publish $(PLACE) $(ARGS)

##@ Measure
bench: setup ## how fast is this machine? ARGS="--only epoch" measures a part
	@$(RUN) experiments bench $(call option,data,$(DATA)) $(call option,device,$(DEVICE)) \
	  $(call option,out,$(OUT)) $(ARGS)

##@ Check
test: setup ## run the tests; ARGS="-k page" runs some
	@OMP_NUM_THREADS=1 $(RUN) pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-ray: setup ## test ENGINE=ray on two nodes of this machine, one of which is lost
	@OMP_NUM_THREADS=1 $(RUN) pytest -m ray tests/test_ray.py $(ARGS)

chaos: setup ## test every promise of tests/README.md at length, for MINUTES=5
	@OMP_NUM_THREADS=1 .venv/bin/python tests/chaos.py --minutes $(MINUTES) $(ARGS)

lint: setup ## check style and format
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .

.PHONY: help setup lock ablation followups precision status resample report samples dashboard sync workspace publish bench test test-ray chaos lint build

# What set-up needs is checked before anything is made. A .venv with another lock is brought up to
# date; one without a lock was interrupted and is built anew. uv comes first, by its hash in the
# lock, and installs the rest, from the index that pip is told of.
INDEX = $(RUN) pip config list | sort -r | sed -n "s/^[^.]*\.index-url='\(.*\)'/\1/p" | tail -n 1
FREE = df -Pk $(or $(wildcard .venv),.) | awk 'NR == 2 { printf "%.1f", $$4 / 1048576 }'
build:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  $(STOP) "$(PYTHON) is not Python 3.11 or newer; name one with PYTHON=..."
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  $(STOP) "$(PYTHON) has no venv module; Debian and Ubuntu have it in the package python3-venv"
	@test -f .venv/requirements.lock || $(FREE) | awk '{ exit $$1 < $(SETUP_GB) }' || \
	  $(STOP) "$$($(FREE)) GB of disk are free, $(SETUP_GB) are needed; SETUP_GB=... asks for less"
	@echo "Building .venv from requirements.lock."
	@test -x .venv/bin/python && test -f .venv/requirements.lock || $(PYTHON) -m venv --clear .venv
	@rm -f .venv/requirements.lock
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > .venv/uv.lock
	@PIP_USER=no $(RUN) pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
	  --require-hashes -r .venv/uv.lock
	@index=$$($(INDEX)); export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$index}"; \
	  test -n "$$UV_DEFAULT_INDEX" || unset UV_DEFAULT_INDEX; \
	  .venv/bin/uv pip sync $$(test -t 2 || echo --quiet) --python .venv --only-binary :all: \
	  --require-hashes requirements.lock
	@cp requirements.lock .venv/requirements.lock
