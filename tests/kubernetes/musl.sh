#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# musl.sh DIR: fetches the musl of two releases of Debian, DIR/bookworm/libc.so and DIR/trixie/libc.so.
# The older one, 1.2.3, is of the kind that never asks over TCP; 1.2.4 and later do. Neither is installed:
# apt fetches and verifies them with lists of its own, as this machine may run another release.
set -eu
dir=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for suite in bookworm trixie; do
	at=$work/$suite
	mkdir -p "$at/lists/partial" "$at/root"
	echo "deb http://deb.debian.org/debian $suite main" >"$at/sources.list"
	apt() {
		apt-get -qq -o Dir::Etc::SourceList="$at/sources.list" -o Dir::Etc::SourceParts=/dev/null \
			-o Dir::State::Lists="$at/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
			-o Acquire::Languages=none -o APT::Sandbox::User=root "$@"
	}
	apt update
	(cd "$at" && apt download musl && dpkg -x musl_*.deb root)
	mkdir -p "$dir.part/$suite"
	cp "$(find "$at/root" -name libc.so)" "$dir.part/$suite/libc.so"
done
rm -rf "$dir"
mv "$dir.part" "$dir"
