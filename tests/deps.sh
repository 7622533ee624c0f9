#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing of the Debian packages that `make run` and `make test` need; with the word
# `cluster` also what the nodes of `make cluster` run.
# Rust and Go come from their own installers: they are checked for, not installed.
set -u

missing=""
need() { # COMMAND PACKAGE: the reason is the comment beside the call
	command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need cc gcc              # Rust links with it
need dig bind9-dnsutils  # asks the agent as a user would
need curl curl           # reads health and metrics as a user would
need ip iproute2         # gives a test's network namespace its addresses
need nft nftables        # drops packets in it; kube-proxy's rules in its nftables mode
need iptables-nft-restore iptables # kube-proxy's rules in its iptables mode
need conntrack conntrack # counts what queries leave in the connection tracking
need strace strace       # wedges one system call of a running agent
need unshare util-linux  # makes it
need openssl openssl      # an authority for an API server of the tests
need buildah buildah      # puts the image together, without a container engine
need promtool prometheus  # checks the chart's alerts
need setpriv util-linux  # takes capabilities from the agent, ends programs with their test
[ -e /usr/include/stdlib.h ] || missing="$missing libc6-dev" # gcc alone cannot link

if [ "${1:-}" = cluster ]; then
	need containerd containerd # runs the pods
	need runc runc
	[ -e /usr/lib/cni/bridge ] || missing="$missing containernetworking-plugins" # their network
	need nsenter util-linux    # enters a node
	need hostname hostname
	need /bin/busybox busybox-static # is the shell of an image that stands for node-cache's
	need musl-gcc musl-tools   # a program that asks as those of Alpine do
	[ -e /usr/include/x86_64-linux-musl/stdlib.h ] || [ -e /usr/include/aarch64-linux-musl/stdlib.h ] ||
		missing="$missing musl-dev" # musl-gcc alone cannot link
fi

status=0
if [ -n "$missing" ]; then
	install="apt-get install -y --no-install-recommends$missing"
	if ! command -v apt-get >/dev/null 2>&1; then
		echo "deps: missing, and this is no Debian:$missing" >&2
		status=1
	elif [ "$(id -u)" -eq 0 ]; then
		echo "deps: installing$missing"
		export DEBIAN_FRONTEND=noninteractive
		# shellcheck disable=SC2086 # one word each package
		apt-get update -q && $install || status=1
	else
		echo "deps: missing packages; run: sudo $install" >&2
		status=1
	fi
fi

command -v cargo >/dev/null 2>&1 || {
	echo "deps: cargo is missing; install Rust from https://rustup.rs" >&2
	status=1
}
command -v go >/dev/null 2>&1 || {
	echo "deps: go is missing; the tests build CoreDNS with it: https://go.dev/dl" >&2
	status=1
}
exit $status
