# What a person runs here; `make` alone lists it. CI runs the same targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# One target directory outside the clone and one profile (dev) for everything, so that RocksDB is
# compiled once on a machine.
export CARGO_TARGET_DIR := $(or $(CARGO_TARGET_DIR),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/ratoon/target)

CARGO := cargo
# Always the whole workspace, whatever is wanted of it: cargo chooses the features of what several
# packages share by the packages it builds, and another choice would compile it all a second time.
BUILD := $(CARGO) build --locked --workspace
BIN := $(CARGO_TARGET_DIR)/debug
# Seeds and the storm of one `make chaos`; arguments of `make demo` or `make bench`, for example
# ARGS='--report out.json'.
SEEDS ?= 100
STORM ?= --scenario cuts --duration 30s
ARGS ?=
# Seconds that `make fuzz` gives each parser.
SECONDS ?= 60

# nextest where it is installed, else cargo's own runner.
TEST := $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo 'nextest run' || echo test)

.PHONY: help
help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: prepare
prepare:
	@.ci/prepare

.PHONY: build
build: prepare ## Build the binary `ratoon`.
	$(BUILD) --bin ratoon
	@echo "built: $(BIN)/ratoon"

.PHONY: demo
demo: build ## Watch a node join over a bad link. Arguments: ARGS='--report out.json'.
	"$(BIN)/ratoon" demo $(ARGS)

.PHONY: test
test: prepare ## Run all tests.
	PROPTEST_DISABLE_FAILURE_PERSISTENCE=true $(CARGO) $(TEST) --locked --workspace --no-fail-fast

# `verify` never writes to the tree; `fix` does.
.PHONY: verify
verify: lint test ## All that CI checks of the source: format, clippy, docs, licences, tests.

.PHONY: lint
lint: format clippy docs deny bugs-apply ## `verify` without the tests.

.PHONY: format
format:
	$(CARGO) fmt --all --check

.PHONY: clippy
clippy: prepare
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

.PHONY: docs
docs: prepare ## Build the documentation of the code; a warning is an error.
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --no-deps

.PHONY: deny
deny:
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
	  $(CARGO) deny --locked check bans licenses sources; \
	else \
	  echo 'deny: skipped: cargo-deny is not installed, so licences and sources were not checked' >&2; \
	fi

# A bug that no longer applies is found by nobody.
.PHONY: bugs-apply
bugs-apply:
	chaos/bugs/run --check

.PHONY: fix
fix: prepare ## Format, and let clippy mend what it can. Writes to the tree.
	$(CARGO) clippy --locked --workspace --all-targets --fix --allow-dirty --allow-staged
	$(CARGO) fmt --all

.PHONY: bench
bench: prepare ## Run the benchmarks. Arguments: ARGS='--json out.json --runs 5'.
	$(CARGO) bench --locked --profile dev -- $(ARGS)

.PHONY: chaos
chaos: simulation storm ## Simulate clusters under faults, SEEDS=100 of them; then a short storm.

.PHONY: simulation
simulation: prepare
	$(BUILD) --bin ratoon-sim
	"$(BIN)/ratoon-sim" --seeds $(SEEDS)

# Built apart from everything else: the feature is on for this one program, and `ratoon` stays as it is.
.PHONY: faulty
faulty: prepare ## Build `ratoon-faulty`, the program with failpoints.
	$(BUILD) --features ratoon/faults --bin ratoon-faulty
	@echo "built: $(BIN)/ratoon-faulty"

.PHONY: faults
faults: faulty ## Kill real nodes at every failpoint. Arguments: ARGS='--only install'.
	$(BUILD) --bin ratoon-faults
	"$(BIN)/ratoon-faults" $(ARGS)

.PHONY: storm
storm: prepare ## A storm on real processes. Which: STORM='--scenario kills --duration 3m --seed 7'.
	$(BUILD) --bin ratoon --bin ratoon-chaos
	"$(BIN)/ratoon-chaos" $(STORM)

.PHONY: bugs
bugs: prepare ## Plant known bugs in a scratch copy: the suite must find each. Arguments: ARGS='--seeds 500 vote'.
	chaos/bugs/run $(ARGS)

# The targets are tests of the library, named `fuzz`; see docs/testing.md.
FUZZ := $(CARGO) test --locked --workspace --lib -- fuzz::

.PHONY: fuzz
fuzz: prepare ## Fuzz every parser, SECONDS=60 each.
	FUZZ_SECONDS=$(SECONDS) FUZZ_KEEP="$(CARGO_TARGET_DIR)/fuzz" $(FUZZ) --nocapture --test-threads="$$(nproc)"

.PHONY: fuzz-corpus
fuzz-corpus: prepare ## Write the valid examples of every parser into the corpus anew.
	FUZZ_WRITE_CORPUS=1 $(FUZZ)

.PHONY: grpc-client
grpc-client: build ## Talk to a cluster with a Python client that knows only reflection.
	@.ci/prepare --python
	tests/clients/run "$(BIN)/ratoon"
