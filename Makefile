# What one does with this repository. The work itself is in cargo and in scripts/.

.DEFAULT_GOAL := help
TOOLS := .tools
export PATH := $(CURDIR)/$(TOOLS)/bin:$(PATH)

# The tools that are on this machine, or else where they will be installed.
NEXTEST := $(or $(shell command -v cargo-nextest),$(TOOLS)/bin/cargo-nextest)
DENY := $(or $(shell command -v cargo-deny),$(TOOLS)/bin/cargo-deny)
PROVIDER := tests/oidc-provider/node_modules/.package-lock.json

# Starts one throwaway PostgreSQL for all the tests of a run.
WITH_POSTGRES := cargo run --quiet -p symbolon-test-postgres --bin with-postgres --

.PHONY: help demo test test-unit simulate mutants chaos lint fmt bench bench-requests bench-data bench-refresh bench-rotate providers doc setup clean

help: ## Lists what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Unoptimized: it is for looking around, and is there in half the time.
demo: ## Runs the whole product on this machine, with nothing set up
	cargo run -p symbolon -- demo

# The doc tests come first, so that the last line says how many tests passed. So does the domain
# crate without the others, whose features would hide what it lacks.
test: setup ## Runs every test; installs what it needs first
	cargo test --workspace --doc --quiet
	cargo nextest run -p symbolon-domain
	$(WITH_POSTGRES) cargo nextest run --workspace

test-unit: $(NEXTEST) ## Runs the tests beside the code, which need nothing installed
	cargo nextest run --workspace --lib --bins

# SEED=n shows one world with all its steps; FIRST and LAST choose others.
simulate: ## Simulates the refresh protocol in a million worlds, or in world SEED
	cargo run --release -p symbolon-domain --example simulate -- $(or $(SEED),$(or $(FIRST),0)..$(or $(LAST),1000000))

mutants: ## Breaks each guard of the refresh protocol, and sees that the simulation notices
	cargo run -p symbolon-domain --example mutate

lint: $(DENY) ## Checks format, lints, licences, sources and documentation
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features -- -D warnings
	cargo check --quiet -p symbolon-domain
	cargo deny --all-features check --hide-inclusion-graph licenses bans sources
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --all-features --no-deps

fmt: ## Formats the code
	cargo fmt --all

bench: bench-requests bench-refresh bench-rotate bench-data ## Measures every figure of docs/benchmarks.md, in about an hour

bench-requests: setup ## Measures what requests cost for docs/benchmarks.md
	cargo build --release -p symbolon -p symbolon-tests
	target/release/bench docs/benchmarks.md

bench-refresh: setup ## Measures a million identities kept fresh for docs/benchmarks.md
	cargo build --release -p symbolon -p symbolon-tests --bins
	target/release/bench refresh docs/benchmarks.md

bench-data: setup ## Measures lists of 5 million identities and imports of 1 million
	cargo build --release -p symbolon -p symbolon-tests
	target/release/bench scale docs/benchmarks.md
	target/release/bench import docs/benchmarks.md

chaos: setup ## Kills replicas, database and connections for four minutes, and counts what is lost
	SYMBOLON_CHAOS_SECONDS=$${SYMBOLON_CHAOS_SECONDS:-240} cargo nextest run -p symbolon-tests \
	  --no-capture -E 'test(chaos::)'

bench-rotate: setup ## Measures what replacing a key costs for docs/benchmarks.md
	cargo build --release -p symbolon-tests --bin bench
	target/release/bench rotate docs/benchmarks.md

providers: ## Writes docs/providers.md from the catalog
	cargo run --quiet -p symbolon -- provider-types list --markdown > docs/providers.md

doc: ## Builds the documentation into target/doc
	cargo doc --workspace --all-features --no-deps

setup: $(NEXTEST) ## Installs what the tests need, where this machine lets us
	scripts/setup
	$(MAKE) --no-print-directory $(PROVIDER)

$(PROVIDER): tests/oidc-provider/package-lock.json
	cd tests/oidc-provider && npm ci
	touch $@

$(TOOLS)/bin/cargo-%:
	cargo install --locked --root $(TOOLS) cargo-$*

clean: ## Removes what was built and installed here
	cargo clean
	rm -rf $(TOOLS) tests/oidc-provider/node_modules
