# `make` lists the targets. Nothing here needs root; everything is kept in this folder
# (.venv, .venv-vllm, .cache), and `make clean` removes it.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq
# REQUIRE_REAL=1: a real part that is missing fails its tests instead of skipping them.
REQUIRE_REAL ?=
# More words for pytest, for example: make unit ARGS="-k replica -x"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo setup parts images image test check lint unit golden bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .cache/run.stamp ## the whole loop on this machine, with emulated engines
	@sh examples/quickstart/run.sh

test: lint images ## everything that CI runs, real parts included where they can be had
	ENOVA_REQUIRE_REAL=$(REQUIRE_REAL) $(BIN)/python -m pytest $(ARGS)

check: test ## the same as test

lint: setup ## ruff, its format check, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: setup ## the tests that start no process
	$(BIN)/python -m pytest -m "not real and not vllm" $(ARGS)

golden: setup ## rewrite the expected outputs of the golden tests; look at the diff afterwards
	$(BIN)/python -m pytest tests --rewrite-golden -m "not real and not vllm" $(ARGS)

bench: setup ## run the benchmarks; each prints a table
	@for file in benchmarks/[a-z]*.py; do \
		[ -e "$$file" ] || continue; echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

setup: .cache/dev.stamp ## the environment for development, in .venv

parts: setup ## CPU vLLM, Prometheus and its companions for the tests, or why not
	@$(BIN)/python scripts/real_parts.py

images: parts ## Docker, Compose and images of this machine's programs for the tests
	@$(BIN)/python scripts/real_images.py

image: ## build the image enova:<version> from the Dockerfile, with a registry
	docker build --tag enova:$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' enova/__init__.py) .

clean: ## remove the environments, caches and build outputs
	rm -rf $(VENV) .venv-vllm .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -rf build dist tests/artifacts
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@python=$$(sh scripts/find-python) && echo "setup: $$($$python --version) in $(VENV)" \
		&& $$python -m venv $(VENV)

.cache/run.stamp: pyproject.toml | $(BIN)/python
	@mkdir -p .cache
	@echo "setup: installing enova" && $(PIP) --editable . && touch $@

.cache/dev.stamp: pyproject.toml | $(BIN)/python
	@mkdir -p .cache
	@echo "setup: installing enova and its development tools" \
		&& $(PIP) --editable '.[dev]' && touch $@ .cache/run.stamp
