# A fresh machine needs python3 and make; everything else is brought by scripts/bootstrap.sh.
# The stamps live in .venv, so removing .venv starts over.

RUN := .venv/.stamp-run
DEV := .venv/.stamp-dev
BIN := .venv/bin
SETUP := uv.lock pyproject.toml scripts/bootstrap.sh

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench soak train-digits train-commands train-environment demo-recording man clean

help: ## Print this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(DEV) ## Set up .venv with the tools for development.

$(RUN): $(SETUP)
	@scripts/bootstrap.sh run
	@touch $@

$(DEV): $(SETUP)
	@scripts/bootstrap.sh dev
	@touch $(RUN) $@

demo: $(RUN) ## Hear it work: daemon and subscriber on a bundled recording.
	@$(BIN)/streamcls demo

lint: $(DEV) ## Check style, formatting and types.
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/pyright

# Both always run; the tests last, so that their summary is the last thing to read. Three at a time
# on two cores: most of them wait for audio to be played or for a process to start.
test: $(DEV) ## Run lint and every test.
	@scripts/bootstrap.sh system
	@lint=0; $(MAKE) --no-print-directory lint || lint=$$?; \
	[ $$lint -eq 0 ] || echo 'make test: LINT FAILED (above); running the tests nevertheless' >&2; \
	tests=0; $(BIN)/pytest -n 3 --dist loadfile || tests=$$?; \
	exit $$((lint ? lint : tests))

bench: $(DEV) ## Measure this machine; see benchmarks/.
	@$(BIN)/python -m benchmarks

HOURS := 24
STREAMS := 8
SEED := 1
soak: $(DEV) ## Run HOURS of audio with faults over STREAMS streams; the ledger must balance.
	@$(BIN)/python -m scripts.soak --hours $(HOURS) --streams $(STREAMS) --seed $(SEED)

train-digits: $(DEV) ## Train the shipped model "digits" from ../shared/data.
	@scripts/bootstrap.sh voices
	@$(BIN)/python -m train fit digits

train-commands: $(DEV) ## Train the shipped model "commands" from ../shared/data.
	@scripts/bootstrap.sh voices
	@$(BIN)/python -m train fit commands

train-environment: $(DEV) ## Train the model "environment" from ../shared/data.
	@$(BIN)/python -m train fit environment

demo-recording: $(DEV) ## Synthesise the demo's recording again (espeak-ng).
	@scripts/bootstrap.sh system
	@$(BIN)/python scripts/demo_recording.py

man: $(DEV) ## Write the manual pages from the commands' help.
	@$(BIN)/python scripts/man_pages.py

clean: ## Remove what setup, tests and builds have made.
	rm -rf .venv .uv .pytest_cache .ruff_cache .hypothesis build dist
	find streamcls train tests benchmarks scripts -name __pycache__ -prune -exec rm -rf {} +
