# SPDX-License-Identifier: Apache-2.0
# Every command of the project. CI calls these and nothing else.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# Tools that are built once and kept outside the tree.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/nodens
COREDNS_VERSION := 1.14.4
COREDNS := $(CACHE)/coredns-$(COREDNS_VERSION)/coredns
HELM_VERSION := 3.22.0
HELM := $(CACHE)/helm-$(HELM_VERSION)/helm
KUBERNETES_VERSION := 1.34.4
# Its name has the digest of what it is built from.
KUBERNETES = $(CACHE)/kubernetes-$(KUBERNETES_VERSION)-$(shell cd tests/kubernetes && \
  cat go.mod go.sum */main.go | sha256sum | cut -c1-12)
# Two of Debian, by release: an image of a test has both.
MUSL := $(CACHE)/musl-bookworm-trixie
DENY_VERSION := 0.20.2
FUZZ_VERSION := 0.13.2
FUZZ := $(CACHE)/cargo-fuzz-$(FUZZ_VERSION)/bin/cargo-fuzz
DENY := $(CACHE)/cargo-deny-$(DENY_VERSION)/bin/cargo-deny

TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
HOST = $(shell rustc -vV | sed -n 's/^host: //p')

# What ships and what is measured is built once, as in the image: static, so that it needs no file
# but itself.
RELEASE = RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release --target $(HOST)
BIN = $(TARGET)/$(HOST)/release

# Of `make image`.
IMAGE ?= ghcr.io/nodens-dns/nodens
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
IMAGE_DIR := $(TARGET)/image
BUILDAH = buildah --root $(IMAGE_DIR)/store --runroot $(IMAGE_DIR)/run --storage-driver vfs

# Where `make run` listens, on 127.0.0.1.
PORT ?= 5300
HEALTH_PORT ?= 9254
METRICS_PORT ?= 9253

# Of `make fuzz`, for each target; options of `make bench` and `make drills`, e.g. BENCH=--quick,
# DRILLS="--shape b --family both kill stop", DRILLS=upstreams, DRILLS="--incumbent silent".
SECONDS_EACH ?= 60
BENCH ?=
DRILLS ?=

# Of `make cluster`, e.g. CLUSTER="--nodes 1 --proxy iptables --dual", and of `make e2e`, e.g. E2E="--quick kill",
# E2E="--proxy both", E2E=--attach.
CLUSTER ?=
E2E ?=

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: ## the agent in front of a sample cluster's DNS (PORT=, HEALTH_PORT=, METRICS_PORT=)
	$(RELEASE) -p nodens -p nodens-tests --bin nodens --bin lab
	@$(BIN)/lab run --release-bin $(BIN)/nodens \
	  --port $(PORT) --health-port $(HEALTH_PORT) --metrics-port $(METRICS_PORT)

.PHONY: test
test: ## everything that must pass; the last line sums it up
	@tests/run.sh

.PHONY: deps
deps: ## install the Debian packages that are missing
	@tests/deps.sh

.PHONY: check
check: lint docs-check ## everything but the tests: lint and docs-check

.PHONY: fmt
fmt: ## format the code
	cargo fmt --all

.PHONY: lint
lint: fmt-check clippy deny ## formatting, clippy, licences and sources of the dependencies

.PHONY: fmt-check
fmt-check:
	cargo fmt --all --check

.PHONY: clippy
clippy:
	cargo clippy --locked --workspace --all-targets -- -D warnings

# Advisories need a database that is fetched from elsewhere: `make advisories`.
.PHONY: deny
deny: $(DENY)
	PATH="$(dir $(DENY)):$$PATH" cargo deny --all-features check bans licenses sources

.PHONY: advisories
advisories: $(DENY) ## known flaws of the dependencies (fetches the advisory database from GitHub)
	PATH="$(dir $(DENY)):$$PATH" cargo deny --all-features check advisories

.PHONY: docs-check
docs-check: ## the code's documentation builds without a warning
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items

.PHONY: docs
docs: ## write docs/{configuration,corefile,metrics,rules}.md and the chart's schema anew from the code
	UPDATE_DOCS=1 cargo test --locked -p nodens --lib -- config:: telemetry::
	UPDATE_DOCS=1 cargo test --locked -p nodens --test replay -- rules::
	UPDATE_DOCS=1 cargo test --locked -p nodens-tests --test chart -- schema::

.PHONY: agent
agent: ## the agent as it ships
	$(RELEASE) -p nodens

# The tests run the agent as it ships, hence NODENS_BIN.
.PHONY: cargo-test
cargo-test: agent coredns helm image ## unit, property and end-to-end tests
	NODENS_BIN=$(BIN)/nodens NODENS_IMAGE=$(IMAGE_DIR)/nodens.tar \
	  cargo test --locked --workspace --no-fail-fast

# The program is built outside, as this machine may reach no registry of images: of the Dockerfile the
# last stage alone is built, and takes the program from a directory in the builder's place.
.PHONY: image
image: agent ## the image, as an archive that `ctr images import` takes (root; needs no registry)
	@rm -rf $(IMAGE_DIR) && mkdir -p $(IMAGE_DIR)/builder/out
	strip -o $(IMAGE_DIR)/builder/out/nodens $(BIN)/nodens
	$(BUILDAH) build --quiet --isolation chroot --target image \
	  --build-context builder=$(IMAGE_DIR)/builder \
	  --build-arg VERSION=$(VERSION) \
	  --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) \
	  --timestamp $$(git log -1 --format=%ct 2>/dev/null || echo 0) \
	  --tag $(IMAGE):$(VERSION) .
	$(BUILDAH) push --quiet $(IMAGE):$(VERSION) \
	  docker-archive:$(IMAGE_DIR)/nodens.tar:$(IMAGE):$(VERSION)
	@rm -rf $(IMAGE_DIR)/store $(IMAGE_DIR)/run $(IMAGE_DIR)/builder
	@ls -l $(IMAGE_DIR)/nodens.tar

.PHONY: chart
chart: agent helm ## the Helm chart: lint, every scenario, schema, rules, hooks
	NODENS_BIN=$(BIN)/nodens cargo test --locked -p nodens-tests --test chart

# What the API server would say to each scenario; nothing is changed there.
.PHONY: chart-dry-run
chart-dry-run: helm ## asks the cluster of KUBECONFIG whether it takes the chart (KUBECTL=, IPV6=1, OPERATOR=1)
	HELM=$(HELM) tests/chart-dry-run.sh

.PHONY: model
model: ## every interleaving of the cache's lock-free reads (loom)
	RUSTFLAGS="--cfg nodens_loom" \
	  cargo test --locked -p nodens --lib --profile model --target-dir $(TARGET)/model -- cache::model

# The sanitizer is a nightly feature. Where there is no nightly, the stable compiler is told to
# take it: its runtime is part of every toolchain.
.PHONY: asan
asan: ## the modules with unsafe code under AddressSanitizer
	if cargo +nightly --version >/dev/null 2>&1; \
	  then export RUSTUP_TOOLCHAIN=nightly; else export RUSTC_BOOTSTRAP=1; fi; \
	RUSTFLAGS="-Zsanitizer=address" cargo test --locked -p nodens --lib \
	  --target $(HOST) --target-dir $(TARGET)/asan -- cache:: serve::

# Where a goal is missed it ends with an error: then the table says which.
.PHONY: bench
bench: agent ## the speeds against a bare UDP echo, as a table with the goals (on a quiet machine)
	$(RELEASE) -p nodens-tests --bin bench --bin echo
	$(BIN)/bench --agent $(BIN)/nodens $(BENCH)

# Both make network namespaces of their own and touch nothing else; without root they say so and end
# with 69. What they need is built by whoever calls make.
.PHONY: demo
demo: agent coredns ## the agent is killed, stopped and replaced while two pods ask (40 s; root)
	@$(RELEASE) -p nodens-tests --bin demo
	@NODENS_BIN=$(BIN)/nodens $(BIN)/demo

# Where a row misses what it must it ends with an error: then the table says which.
.PHONY: drills
drills: agent coredns ## what names cost CoreDNS, what pods notice of crashes, hangs, floods and an unwell CoreDNS, as tables (25 min; root)
	@$(RELEASE) -p nodens-tests --bin drills
	@NODENS_BIN=$(BIN)/nodens $(BIN)/drills $(DRILLS)

# wire has no unsafe code, so no sanitizer. A finding is written to tests/fuzz/artifacts.
.PHONY: fuzz
fuzz: $(FUZZ) ## look for octets that wire and hickory-proto judge differently (SECONDS_EACH=60; nightly)
	cd tests/fuzz && for target in query response; do \
	  mkdir -p corpus/$$target && PATH="$(dir $(FUZZ)):$$PATH" cargo +nightly fuzz run --fuzz-dir . \
	    --sanitizer none $$target corpus/$$target seeds/$$target \
	    -- -max_total_time=$(SECONDS_EACH) -max_len=4096 -timeout=10 || exit 1; \
	done

.PHONY: cluster
cluster: cluster-deps kubernetes coredns helm ## a real Kubernetes of two nodes, which stays up (CLUSTER=; root)
	@$(CLUSTER_RUN) up $(CLUSTER)

.PHONY: e2e
e2e: cluster-deps kubernetes coredns helm image $(MUSL) ## the chart on that Kubernetes: installed, killed, rolled, removed under load (E2E=; root)
	@$(CLUSTER_BUILD) --bin e2e
	@$(CLUSTER_ENV) NODENS_IMAGE=$(IMAGE_DIR)/nodens.tar $(TARGET)/debug/e2e $(E2E)

.PHONY: cluster-down
cluster-down: ## takes it down again
	@$(CLUSTER_RUN) down

.PHONY: cluster-deps
cluster-deps:
	@tests/deps.sh cluster

CLUSTER_BUILD = cargo build --quiet --locked -p nodens-tests --bin cluster
CLUSTER_ENV = NODENS_KUBERNETES=$(KUBERNETES) NODENS_MUSL=$(MUSL)
CLUSTER_RUN = $(CLUSTER_BUILD) && $(CLUSTER_ENV) $(TARGET)/debug/cluster

$(MUSL): tests/kubernetes/musl.sh
	@$< $@

.PHONY: kubernetes
kubernetes: ## build the Kubernetes of the cluster into the user's cache (once, about 10 minutes)
	@[ -x $(KUBERNETES)/pause ] || $(MAKE) --no-print-directory kubernetes-anew

# Without a version kubelet says that it is v0.0.0, which Helm and the API server believe. What is there
# is whole: it is built under another name.
KUBERNETES_X := -X k8s.io/component-base/version.gitVersion=v$(KUBERNETES_VERSION) \
  -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=34 \
  -X k8s.io/component-base/version.gitTreeState=clean

.PHONY: kubernetes-anew
kubernetes-anew: at = $(KUBERNETES)
kubernetes-anew:
	@echo "building Kubernetes $(KUBERNETES_VERSION) into $(at), about 10 minutes on two CPUs"
	@rm -rf $(at).part && mkdir -p $(at).part
	cd tests/kubernetes && CGO_ENABLED=0 go build -mod=readonly -trimpath -buildvcs=false \
	  -ldflags "-s -w $(strip $(KUBERNETES_X))" -o $(at).part/ ./components ./pause
	@for name in etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubectl kubelet; do \
	  ln -s components $(at).part/$$name || exit 1; done
	@rm -rf $(at) && mv $(at).part $(at)

.PHONY: coredns
coredns: $(COREDNS) ## build the CoreDNS of the tests into the user's cache (once, about 4 minutes)

# The version is part of the path. Built under another name: what is there is whole.
$(COREDNS):
	@mkdir -p $(@D)
	@echo "building CoreDNS $(COREDNS_VERSION) into $(@D), about 4 minutes on two CPUs"
	cd tests/coredns && CGO_ENABLED=0 go build -mod=readonly -trimpath -buildvcs=false \
	  -o $@.part github.com/coredns/coredns
	@mv $@.part $@

.PHONY: helm
helm: $(HELM) ## build the Helm of the tests into the user's cache (once, about 2 minutes)

# Helm's own build says which Kubernetes it takes a chart for where there is no cluster to ask.
HELM_X := -X helm.sh/helm/v3/internal/version.version=v$(HELM_VERSION) \
  $(foreach where,pkg/chartutil pkg/lint/rules,\
    -X helm.sh/helm/v3/$(where).k8sVersionMajor=1 -X helm.sh/helm/v3/$(where).k8sVersionMinor=34)

$(HELM):
	@mkdir -p $(@D)
	@echo "building Helm $(HELM_VERSION) into $(@D), about 2 minutes on two CPUs"
	cd tests/helm && CGO_ENABLED=0 go build -mod=readonly -trimpath -buildvcs=false \
	  -ldflags "-s -w $(strip $(HELM_X))" -o $@.part helm.sh/helm/v3/cmd/helm
	@mv $@.part $@

$(DENY):
	@mkdir -p $(CACHE)
	cargo install --locked --version $(DENY_VERSION) --root $(CACHE)/cargo-deny-$(DENY_VERSION) cargo-deny

$(FUZZ):
	@mkdir -p $(CACHE)
	cargo install --locked --version $(FUZZ_VERSION) --root $(CACHE)/cargo-fuzz-$(FUZZ_VERSION) cargo-fuzz
