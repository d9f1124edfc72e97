# make help lists the targets. Everything is built without cgo, and the built
# binaries land in bin/.
export CGO_ENABLED := 0
# Not from the checkout's state: that fails in a checkout of another user.
export GOFLAGS := $(GOFLAGS) -buildvcs=false
.DEFAULT_GOAL := help
SHELL := /bin/sh

# Flags of the product's binaries; internal/testenv builds with the same.
LDFLAGS := -s -w
TAGS := urfave_cli_no_docs
VERSION = $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GOBUILD = go build -trimpath -ldflags '$(LDFLAGS) -X main.version=$(VERSION)' -tags $(TAGS)

# What to test: make test-unit PKG=./rootfs/... TESTFLAGS='-v -run Pivot'; make test-root RUN='^TestRootPivot'
PKG ?= ./...
RUN ?=
TESTFLAGS ?=
FUZZTIME ?= 30s
BENCH_ARGS ?=
HAMMER ?= 10000
HAMMER_IMAGES ?= 1000
HAMMER_NETWORK ?= 500
HAMMER_KILLS ?= 10000
HAMMER_SEED ?=
POWER_CUTS ?= 100
FAULTS ?= all
TESTRUN := bin/testrun -packages '$(PKG)' -run '$(RUN)' -flags '$(TESTFLAGS)' -fuzztime $(FUZZTIME) -count bin/test-count
TOOL := go tool -modfile=tools/go.mod

.PHONY: hammer-codes bench-supervisor demo-rollout help build run test test-unit test-root test-vm cover bench bench-network bench-images faults-images fuzz hammer hammer-dns hammer-images hammer-images-vm hammer-network hammer-supervisor interop-images lint vuln fmt check deps clean testrun vmrun

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# A binary that does not build any more must not be tested in its old form. The
# copies are for speed: the linker writes through a mapping, which leaves the file in
# the page cache in single pages; a file written in one go is mapped in larger ones.
build: ## Build bin/minirun and bin/minirund.
	$(GOBUILD) -o bin/minirun ./cmd/minirun || { rm -f bin/minirun; exit 1; }
	$(GOBUILD) -o bin/minirund ./cmd/minirund || { rm -f bin/minirund; exit 1; }
	@for f in bin/minirun bin/minirund; do cp $$f $$f.new && mv $$f.new $$f || exit 1; done

run: build ## Build, then show a short session: containers from start to end.
	@./integration/demo.sh

# The count has to come out whatever breaks, so a runner that does not build is a failed test.
test: ## Install what the tests need from Debian, then run all of them: unit, root, VM.
	@tools/deps.sh || echo 'deps: go on without; tests that need them will fail'
	@go build -o bin/testrun ./internal/testrun || { echo '0 passed, 1 failed, 0 skipped'; exit 1; }
	@$(TESTRUN) -again build unit root vm

test-unit: testrun ## Run the tests that need neither root nor a virtual machine.
	@$(TESTRUN) unit

test-root: testrun ## Run the tests that need root, on this machine.
	@$(TESTRUN) build root

test-vm: testrun ## Run the tests that need every cgroup v2 controller, in one virtual machine.
	@$(TESTRUN) build vm

hammer: ## Live through HAMMER (10000) containers, killed and deleted in every state.
	MINIRUN_TEST_HAMMER=$(HAMMER) go test -count=1 -timeout 3h -v -run '^TestRootHammer' ./integration

hammer-dns: ## Ask for names 10,000 times a second for 30 s while 100 containers come and go, in the records and then real ones.
	MINIRUN_BENCH_NETWORK=1 go test -count=1 -v -run '^$$' -bench '^BenchmarkHammer$$' -benchtime 1x ./network/names
	MINIRUN_TEST_HAMMER_DNS=100 go test -count=1 -timeout 1h -v -run '^TestRootNetworkNames_Containers$$' ./integration

hammer-images: ## Kill HAMMER_IMAGES (1000) commands that change the store of images at random points.
	MINIRUN_TEST_HAMMER_IMAGES=$(HAMMER_IMAGES) go test -count=1 -timeout 3h -v -run '^TestRootImageHammer$$' ./integration

hammer-network: ## Have HAMMER_NETWORK (500) containers on one bridge at the same time, up and down.
	MINIRUN_TEST_HAMMER_NETWORK=$(HAMMER_NETWORK) go test -count=1 -timeout 1h -v -run '^TestRootNetworkHammer$$' ./integration

hammer-supervisor: ## Kill HAMMER_KILLS (10000) times minirund, monitors and processes of containers, while objects change; HAMMER_SEED repeats a run.
	MINIRUN_TEST_HAMMER_KILLS=$(HAMMER_KILLS) MINIRUN_TEST_HAMMER_SEED=$(HAMMER_SEED) go test -count=1 -timeout 12h -v -run '^TestRootSupervisorKills$$' ./integration/kills

hammer-images-vm: ## Cut the power of a guest that works with images POWER_CUTS (100) times.
	MINIRUN_TEST_POWER_CUTS=$(POWER_CUTS) go test -count=1 -timeout 12h -v -run '^TestRootPowerCut$$' ./integration

# vmrun boots a virtual machine for one command: make vmrun && bin/vmrun -- uname -r
vmrun:
	go build -o bin/vmrun ./integration/vm/cmd/vmrun

testrun:
	@go build -o bin/testrun ./internal/testrun

cover: ## Run the unit tests with coverage and list the percentage of every function.
	@mkdir -p bin
	go test -skip '^Test(Root|VM)' -coverprofile bin/cover.out $(PKG)
	go tool cover -func bin/cover.out

bench: build ## Measure against other runtimes, as benchmarks/ describes.
	go run ./benchmarks $(BENCH_ARGS)

bench-network: build ## Measure attachment to networks, services and names; needs root and a machine that does nothing else.
	CGO_ENABLED=0 go run ./benchmarks/network $(BENCH_ARGS)
	MINIRUN_BENCH_NETWORK=1 CGO_ENABLED=0 go test -run '^$$' -bench . -benchtime 1x ./network/...

bench-supervisor: build ## Measure starts, replacements and restarts by minirund, and by podman and containerd.
	CGO_ENABLED=0 go run ./benchmarks/supervisor $(BENCH_ARGS) bench

demo-rollout: build ## Update ten pods under load, to a version that works and to one that does not.
	CGO_ENABLED=0 go run ./benchmarks/supervisor $(BENCH_ARGS) demo

hammer-codes: build ## Have 1,000 containers end while minirund is dead, and ask the next one how.
	CGO_ENABLED=0 go run ./benchmarks/supervisor $(BENCH_ARGS) codes

bench-images: build ## Measure pulling, mounting, reading and removing images against other tools.
	go run ./benchmarks/images $(BENCH_ARGS)

fuzz: testrun ## Run every fuzz target for FUZZTIME (30s).
	@$(TESTRUN) fuzz

faults-images: ## Have every call of the commands that change a store of images fail once, with EIO and ENOSPC; FAULTS names some of them.
	MINIRUN_TEST_FAULTS='$(FAULTS)' go test -count=1 -timeout 6h -v -run '^TestRootImage(Fault|Store)EIO$$' ./integration

interop-images: ## Compare what minirun, umoci and podman make of 100 generated and three Debian images.
	MINIRUN_TEST_INTEROP_IMAGES=100 MINIRUN_TEST_INTEROP_DEBOOTSTRAP=1 go test -count=1 -timeout 1h -v -run '^TestRootInterop$$' ./integration

lint: ## Report what vet, staticcheck, gofumpt and an untidy go.mod have to say.
	go vet ./...
	$(TOOL) staticcheck ./...
	@files=$$($(TOOL) gofumpt -l .) && if [ -n "$$files" ]; then echo "gofumpt would change:"; echo "$$files"; exit 1; fi
	go mod tidy -diff

vuln: ## Look for known vulnerabilities in what the binaries use (asks the network).
	$(TOOL) govulncheck ./...

fmt: ## Format the sources.
	$(TOOL) gofumpt -w .

check: lint test-unit ## Do what every change must pass: lint and unit tests.

deps: ## Install the Debian packages that the tests need and that are missing.
	@tools/deps.sh

clean: ## Remove what was built; downloaded kernels stay in the user's cache directory.
	rm -rf bin
