# `make demo` shows Tide at work; `make test` is all that continuous integration checks.
# Every check is a target of its own. PG=14 … PG=18 runs against that PostgreSQL instead of the
# machine's: make test PG=18.

# An error says what went wrong; the frames that an error was carried through would bury it. A panic
# keeps its backtrace.
export RUST_LIB_BACKTRACE := 0
export TIDE_STEPS_SINCE := $(shell date +%s)
STEP := @scripts/step.sh
TARGET := $(or $(CARGO_TARGET_DIR),target)
BUF := .tools/buf/node_modules/.bin/buf
# The protocol of the last release, as `buf build` writes it.
BASELINE := proto/baseline.binpb

ifdef PG
export TIDE_PG_BIN := $(CURDIR)/.tools/pg-$(PG)/bin
endif

# Cargo and the tests use all processors by themselves, and the order of the checks means something.
.NOTPARALLEL:
.PHONY: help demo test torture soak mutations setup fmt clippy doc proto baseline deploy-check deny build examples postgres unit system

help:
	@echo 'make demo     a fleet on this machine: failover, drain, rebalance (needs no other set-up)'
	@echo 'make test     every check, cheapest first, then every test; PG=14 to PG=18 chooses PostgreSQL'
	@echo 'make torture  random faults for SECONDS (300), drawn from SEED, or as PLAN (a file) says'
	@echo 'make soak     RATE (2000) messages a second through four sinks on bad days, for SECONDS (600)'
	@echo 'make mutations  whether torture finds the bugs in tests/mutations within SECONDS (300)'
	@echo 'one check:    make fmt | proto | deploy-check | deny | clippy | doc | examples | unit | system'

demo:
	$(STEP) 'set-up' scripts/setup.sh demo $(PG:%=pg-%)
	$(STEP) 'build' cargo build --locked --workspace --bins
	$(STEP) 'demo' $(TARGET)/debug/tidectl dev --scenario tour

test: setup fmt proto deploy-check deny clippy doc build examples
	$(STEP) 'tests' cargo nextest run --locked --workspace

# A seed is drawn if none is given, and printed in any case.
torture:
	$(STEP) 'build' cargo build --locked --workspace --bins
	$(STEP) 'torture' $(TARGET)/debug/tide-torture $(if $(PLAN),--plan $(PLAN),\
	    $(SECONDS:%=--seconds %) $(SEED:%=--seed %))

# Built as it is shipped: what is measured is the relay, and not how slow it is with checks.
soak:
	$(STEP) 'build' cargo build --locked --release --workspace --bins
	$(STEP) 'soak' $(TARGET)/release/tide-torture --soak $(or $(RATE),2000) \
	    --seconds $(or $(SECONDS),600) $(SEED:%=--seed %)

mutations:
	$(STEP) 'mutations' scripts/check-mutations.sh $(or $(SECONDS),300)

setup:
	$(STEP) 'set-up' scripts/setup.sh test $(PG:%=pg-%)

fmt:
	$(STEP) 'format' cargo fmt --all --check

clippy:
	$(STEP) 'clippy' cargo clippy --locked --workspace --all-targets -- -D warnings

doc: export RUSTDOCFLAGS := -D warnings
doc:
	$(STEP) 'documentation' cargo doc --locked --workspace --no-deps --document-private-items

proto:
	$(STEP) 'protocol: lint' $(BUF) lint
	$(STEP) 'protocol: format' $(BUF) format --diff --exit-code
	$(STEP) 'protocol: compatible with the released one' $(BUF) breaking --against $(BASELINE)

# What was released is the contract: clients in other languages were generated from it. After a
# release, `make baseline` makes its protocol the one to compare with; commit the file.
baseline:
	$(STEP) 'protocol: the released one' $(BUF) build --exclude-source-info -o $(BASELINE)

deploy-check:
	$(STEP) 'deployment' scripts/check-deploy.sh

deny:
	$(STEP) 'dependencies' scripts/check-dependencies.sh

# The system tests start these programs, and nextest reuses everything compiled here.
build:
	$(STEP) 'build' cargo build --locked --workspace --all-targets

# nextest does not run the examples in the documentation.
examples: build
	$(STEP) 'documentation examples' cargo test --locked --workspace --doc --quiet

# One check alone, with PG set, fetches that PostgreSQL first.
unit system: $(PG:%=postgres)

postgres:
	@scripts/setup.sh pg-$(PG)

unit:
	$(STEP) 'unit tests' cargo nextest run --locked --workspace --exclude tide-tests

system: build
	$(STEP) 'system tests' cargo nextest run --locked --workspace -E 'package(tide-tests)'
