# Two commands: `make run` builds and serves the demo model, `make test` runs every test. `make help` lists the rest.
# Everything is made in .venv and build/; nothing is redone when nothing changed. V=1 shows what the tools print.

PYTHON  ?= python3
BACKEND ?= cpu# cpu, cuda, vulkan or metal
ARGS    ?=# further arguments for serve or pytest: make run ARGS="--port 8080", make test ARGS="-k scheduler"
HOST    ?= 127.0.0.1
PORT    ?= 1234

BIN    := .venv/bin
STAMPS := .venv/stamps
PIP    := $(BIN)/python -m pip --disable-pip-version-check --no-input
QUIET  := -qq --root-user-action=ignore
SHOW   := $(PYTHON) cmake/progress.py
# The name of the stamp tells the backend, so that another one is a new install.
INSTALLED := build/editable/.installed-$(BACKEND)
# Clients of the API; the tests of each are tests/e2e/test_CLIENT*.py. PACKAGE_CLIENT where the index has another name.
CLIENTS   := openai anthropic langchain_openai llama_index litellm pydantic_ai instructor llm schemathesis
PACKAGE_llama_index := llama-index-llms-openai-like
PACKAGE_pydantic_ai := pydantic-ai-slim[openai,anthropic]

BENCH_MODEL = $(or $(MODEL),$$($(BIN)/python -c 'from slipstream.base import config; print(config.demo_model_path())'))

.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: run test stub test-unit test-clients lint build demo peers bench bench-serve clean distclean help

run: build demo  ## build, bring the demo model, serve it on http://127.0.0.1:1234
	@$(BIN)/slipstream serve demo --host $(HOST) --port $(PORT) $(ARGS)

test: build demo $(STAMPS)/minilm $(STAMPS)/schema-suite  ## run every test
	@$(BIN)/python -m pytest $(ARGS)

stub: build  ## write the stub of the native core anew
	@$(BIN)/python -m nanobind.stubgen -q -m slipstream._core -o python/slipstream/_core.pyi

test-unit: build $(STAMPS)/test  ## run the tests that need neither a model nor a socket (milliseconds each)
	@$(BIN)/python -m pytest tests/unit tests/test_layers.py $(ARGS)

test-clients: build demo $(STAMPS)/minilm $(CLIENTS:%=build/clients/%/.installed)  ## run real clients, each in its own environment
	@for client in $(CLIENTS); do \
	  SLIPSTREAM_TEST_PYTHON=$(CURDIR)/$(BIN)/python PYTHONPATH=python \
	    build/clients/$$client/bin/python -W ignore -m pytest -W ignore tests/e2e/test_$$client*.py $(ARGS) || exit 1; \
	done

lint: $(INSTALLED) $(STAMPS)/test $(STAMPS)/lint  ## ruff, mypy, clang-format, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@git ls-files -- '*.cpp' '*.h' | xargs -r $(BIN)/clang-format --dry-run -Werror
	@$(BIN)/lint-imports --no-logo

build: $(INSTALLED)  ## build the package into .venv (only what changed)
	@$(SHOW) "building the native core" build/core.log -- $(BIN)/cmake --build build/editable --target _core
	@if [ -n "$$(find build/editable -maxdepth 1 -name '_core*' -newer $(INSTALLED))" ]; then \
	  $(BIN)/cmake --install build/editable --strip --component python \
	    --prefix "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')" > build/install.log \
	  && touch $(INSTALLED); \
	fi

demo: build
	@$(BIN)/python -m slipstream.models.demo

peers: $(STAMPS)/build  ## build llama-server, llama-bench and llama-batched-bench from the same source, alone
	@$(SHOW) "configuring llama.cpp's own tools" build/peers-configure.log -- sh -c '\
	  $(BIN)/cmake -S cmake/peers -B build/peers -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
	  -DLLAMA_CPP_DIR="$$($(BIN)/python third_party/fetch_llama_cpp.py)" \
	  -DLLAMA_CPP_COMMIT="$$($(BIN)/python third_party/fetch_llama_cpp.py --print-lock commit)"'
	@$(SHOW) "building llama.cpp's own tools" build/peers.log -- \
	  $(BIN)/cmake --build build/peers --target llama-server llama-bench llama-batched-bench
	@echo "build/peers/bin: $$(ls build/peers/bin)"

bench: build demo peers  ## run the benchmarks (minutes; close other programs): make bench MODEL=path.gguf
	@$(BIN)/python bench/bench_startup.py
	@$(BIN)/python bench/bench_scheduler.py
	@$(BIN)/python bench/bench_api.py "$(BENCH_MODEL)"
	@$(BIN)/python bench/bench_constrained.py "$(BENCH_MODEL)"
	@$(BIN)/python bench/bench_engine.py $(ARGS) \
	  "$(BENCH_MODEL)"

bench-serve: build demo peers  ## compare with llama-server over HTTP (25 minutes): make bench-serve MODEL=path.gguf
	@$(BIN)/python bench/serve_vs_llama_server.py $(if $(MODEL),--model "$(MODEL)") $(ARGS)

clean:  ## remove what was built
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find python tests -name __pycache__ -prune -exec rm -rf {} +

distclean: clean  ## remove .venv and the fetched llama.cpp, too
	rm -rf .venv third_party/llama.cpp

help:  ## show this
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / { printf "make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Slipstream needs Python 3.11 or newer, $(PYTHON) is older: make PYTHON=python3.12 ..." >&2; exit 1; }
	@mkdir -p build
	@$(SHOW) "creating .venv" build/venv.log -- $(PYTHON) -m venv .venv
	@$(SHOW) "upgrading pip" build/venv.log -- $(PIP) install $(QUIET) --upgrade 'pip>=25.1'
	@mkdir -p $(STAMPS) && touch $@

# The embedding model of the tests, converted once into the user's cache.
$(STAMPS)/minilm: $(STAMPS)/test tests/support/minilm.py
	@$(SHOW) "bringing the embedding model of the tests" build/minilm.log -- $(BIN)/python -m tests.support.minilm
	@touch $@

$(STAMPS)/schema-suite: $(STAMPS)/test tests/support/json_schema_suite.py
	@$(SHOW) "bringing the JSON Schema test suite" build/schema-suite.log -- $(BIN)/python -m tests.support.json_schema_suite
	@touch $@

# One stamp for each dependency group of pyproject.toml.
$(STAMPS)/%: $(STAMPS)/venv pyproject.toml
	@mkdir -p build
	@$(SHOW) "installing the $* tools" build/$*.log -- $(PIP) install $(QUIET) --group $*
	@touch $@

$(INSTALLED): $(STAMPS)/build pyproject.toml
	@$(SHOW) "building Slipstream (minutes the first time)" build/editable.log -- \
	  $(PIP) install -v --root-user-action=ignore --no-build-isolation -C cmake.define.SLIPSTREAM_BACKEND=$(BACKEND) -e .
	@rm -f build/editable/.installed-* && touch $@

build/clients/%/.installed: pyproject.toml
	@$(SHOW) "installing the client $*" build/client-$*.log -- sh -c '\
	  $(PYTHON) -m venv build/clients/$* && build/clients/$*/bin/python -m pip --disable-pip-version-check install -qq \
	  --root-user-action=ignore "$(or $(PACKAGE_$*),$*)" numpy pytest pytest-timeout'
	@touch $@
