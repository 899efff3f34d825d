# What a person types: make run, make test, make build. The rest are their parts.
# Needed: Go, make, bash, git.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN        := $(CURDIR)/bin
COLLECTOR  := $(CURDIR)/_build/otelcol-meshaudit
COMPONENTS := $(patsubst %/metadata.yaml,%,$(wildcard */*/metadata.yaml))
# Modules beside the root one; bench and demo keep heavy dependencies out of it.
NESTED     := $(patsubst %/go.mod,%,$(wildcard demo/go.mod bench/go.mod test/*/go.mod))
# Of those, the ones that build servers for many minutes.
NIGHTLY    := test/kubernetes

# How long each fuzz target runs in `make fuzz`, which does not minimize what reaches
# new code: that takes nearly all of the time.
FUZZTIME ?= 30s
# How often the collector is killed under load.
KILLS ?= 3

# 1: the collector and the command take log keys in PKCS#11 tokens; they then
# need a C compiler to build and glibc to run.
CGO_ENABLED ?= 0
# Only for what build.sh builds: tests with the race detector need cgo.
build collector cli: export CGO_ENABLED := $(CGO_ENABLED)

export MESHAUDIT_COLLECTOR := $(COLLECTOR)
export MESHAUDIT_CLI := $(BIN)/meshaudit

.PHONY: help
help: ## Show this
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Use

.PHONY: run
run: build ## Build, run a small mesh against the collector, show and verify its audit log
	@demo/run.sh

.PHONY: build
build: collector cli demo ## Build the collector, the meshaudit command and the demo

.PHONY: collector
collector: $(BIN)/ocb
	@echo "Building otelcol-meshaudit (from cold caches: some minutes)"
	@distributions/build.sh collector $(BIN)/ocb

.PHONY: cli
cli:
	@echo "Building meshaudit"
	@distributions/build.sh program . ./cmd/meshaudit bin/meshaudit

.PHONY: demo
demo:
	@echo "Building the demo mesh"
	@distributions/build.sh program demo . bin/demo

##@ Check

.PHONY: test
test: zstd strace softhsm lint generate-check test-unit test-nested test-distribution ## Run all that CI runs

# The second verifier's test decompresses with the zstd command; without it the
# test is skipped, and says so.
.PHONY: zstd
zstd:
	@command -v zstd >/dev/null || { echo "Installing zstd"; apt-get update -q && apt-get install -qy --no-install-recommends zstd; } || \
		echo "zstd is not installed: the second verifier's test will be skipped (in CI: fail)"

# The tests of log keys in PKCS#11 tokens; without it they are skipped, and say so.
.PHONY: softhsm
softhsm:
	@ls /usr/lib*/softhsm/libsofthsm2.so /usr/lib*/pkcs11/libsofthsm2.so >/dev/null 2>&1 || command -v softhsm2-util >/dev/null || { \
		echo "Installing SoftHSM"; apt-get update -q && apt-get install -qy --no-install-recommends softhsm2; } || \
		echo "SoftHSM is not installed: tests of PKCS#11 will be skipped (in CI: fail)"

# The fault tests of a real process need strace.
.PHONY: strace
strace:
	@command -v strace >/dev/null || { echo "Installing strace"; apt-get update -q && apt-get install -qy --no-install-recommends strace; } || \
		echo "strace is not installed: tests of faults in system calls will be skipped (in CI: fail)"

.PHONY: test-unit
test-unit: ## Run the root module's tests, with the race detector
	go test -race -timeout 20m ./...
	go test -timeout 20m ./seal ./test/faults # their sweeps, which the race detector makes too slow

.PHONY: test-nested
test-nested: ## Run the tests of the nested modules that need no built binary
	@for module in $(filter-out test/distribution $(NIGHTLY),$(NESTED)); do \
		echo "go test ($$module)"; \
		go -C $$module test -timeout 10m ./...; \
	done

.PHONY: spire
spire: $(BIN)/spire-agent ## Test SVIDs and the audit log of a real SPIRE, which takes long to build
	MESHAUDIT_SPIRE=$(BIN) go test -tags spire -count=1 -run TestRealSPIRE ./exporter/sealedlogexporter ./internal/svid ./internal/evidence/spire

.PHONY: test-configs
test-configs: collector ## Validate every shipped configuration with the built collector
	go -C test/distribution test -count=1 -run 'TestConfig' -v ./...

.PHONY: test-distribution
test-distribution: collector cli ## Test the built collector: backends down, kill -9, one component alone, a simulated mesh
	MESHAUDIT_KILLS=$(KILLS) go -C test/distribution test -count=1 -timeout 40m -v ./...

.PHONY: kill9
kill9: KILLS = 10
kill9: collector cli ## Kill the collector ten times (KILLS) under load; nothing acknowledged may be lost
	MESHAUDIT_KILLS=$(KILLS) go -C test/distribution test -count=1 -timeout 40m -run 'TestKill' -v ./...

.PHONY: faults
faults: strace ## Fail and kill the exporter in every system call on its log; nothing acknowledged may be lost
	MESHAUDIT_FAULTS=all go test -count=1 -timeout 60m -v ./test/faults

.PHONY: nightly
nightly: faults spire ## What takes too long for every change: all faults, a hundred kills, minutes of fuzzing, servers that take long to build
	$(MAKE) kill9 KILLS=100
	$(MAKE) fuzz FUZZTIME=2m
	@for module in $(NIGHTLY); do \
		echo "go test ($$module)"; \
		go -C $$module test -count=1 -timeout 60m ./...; \
	done

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME each
	@grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r package; do \
		grep -h -o '^func Fuzz[A-Za-z0-9_]*' "$$package"/*_test.go | sed 's/^func //' | while read -r target; do \
			echo "$$package $$target"; \
			go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 0x "$$package"; \
		done; \
	done

.PHONY: bench
bench: ## Measure beside the alternatives, as ratios
	@go -C bench run .

.PHONY: bench-accuracy
bench-accuracy: ## Simulate an autoscaling mesh; print precision and recall of what is joined
	go test -count=1 -timeout 60m ./internal/correlate -run '^TestAccuracy$$' -v -accuracy.time 10m

.PHONY: lint
lint: $(BIN)/staticcheck ## gofmt, go vet, staticcheck, shell syntax
	@unformatted=$$(git ls-files -co --exclude-standard -- '*.go' | xargs gofmt -l); \
		if [ -n "$$unformatted" ]; then echo "run gofmt on:"; echo "$$unformatted"; exit 1; fi
	@for script in $$(git ls-files -co --exclude-standard -- '*.sh' .ci/run); do bash -n "$$script"; done
	@if command -v shellcheck >/dev/null; then git ls-files -co --exclude-standard -- '*.sh' .ci/run | xargs shellcheck; \
		else echo "shellcheck is not installed: scripts are checked for syntax only"; fi
	@for module in . $(NESTED); do \
		echo "go vet, staticcheck ($$module)"; \
		(cd $$module && go vet ./... && $(BIN)/staticcheck ./...); \
	done

##@ Generate

.PHONY: generate
generate: $(BIN)/mdatagen ## Write the generated code and docs again
	@for component in $(COMPONENTS); do (cd $$component && $(BIN)/mdatagen metadata.yaml); done

.PHONY: generate-check
generate-check: ## Fail if generated code or docs are not up to date
	@before=$$(git diff; git ls-files -o --exclude-standard | xargs -r cat | cksum); \
		$(MAKE) generate; \
		after=$$(git diff; git ls-files -o --exclude-standard | xargs -r cat | cksum); \
		if [ "$$before" != "$$after" ]; then git diff --stat; echo "generated files were out of date: commit what make generate writes"; exit 1; fi

$(BIN)/spire-agent: internal/tools/spire.sh
	@internal/tools/spire.sh $(BIN)

# The tools are pinned in internal/tools/go.mod.
$(BIN)/%: internal/tools/go.mod
	@mkdir -p $(BIN)
	@echo "Building $*"
	@go -C internal/tools build -o $@ $(TOOL_$*)
TOOL_ocb         := go.opentelemetry.io/collector/cmd/builder
TOOL_mdatagen    := go.opentelemetry.io/collector/cmd/mdatagen
TOOL_staticcheck := honnef.co/go/tools/cmd/staticcheck

.PHONY: clean
clean: ## Remove what was built; run/ stays
	rm -rf $(BIN) _build
