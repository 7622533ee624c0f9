#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# All that must pass, one step after the other; a step that fails does not keep the next from
# running. The last line is `N passed, N failed`: the tests of every step that runs tests, and one
# for every step that only succeeds or fails. Preparations count where they fail.
set -u
cd "$(dirname "$0")/.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'echo "interrupted"; failed=$((failed + 1)); finish' INT TERM

passed=0
failed=0
failures=()

finish() {
	echo
	for name in "${failures[@]}"; do echo "failed: $name"; done
	echo "$passed passed, $failed failed"
	[ "$failed" -eq 0 ]
	exit
}

# step KIND NAME COMMAND...
#   tests:   its tests are counted; none at all, or a build that fails, is a failure
#   check:   counts as one test
#   prepare: counts where it fails
step() {
	local kind=$1 name=$2
	shift 2
	echo
	echo "==> $name: $*"
	local begun=$SECONDS status
	"$@" </dev/null 2>&1 | tee "$log"
	status=${PIPESTATUS[0]}

	local ok=0 bad=0
	if [ "$kind" = tests ]; then
		read -r ok bad < <(awk '
			/^test result: (ok|FAILED)\. [0-9]+ passed; [0-9]+ failed;/ { ok += $4; bad += $6 }
			END { print ok + 0, bad + 0 }' "$log")
		# A build that failed, a test that ended its process, or tests that are gone.
		if [ "$bad" -eq 0 ] && { [ "$status" -ne 0 ] || [ "$ok" -eq 0 ]; }; then bad=1; fi
	elif [ "$status" -ne 0 ]; then
		bad=1
	elif [ "$kind" = check ]; then
		ok=1
	fi
	passed=$((passed + ok))
	failed=$((failed + bad))
	[ "$bad" -eq 0 ] || failures+=("$name ($bad)")
	echo "<== $name: $ok passed, $bad failed, $((SECONDS - begun)) s"
}

step prepare deps make --no-print-directory deps
step check format make --no-print-directory fmt-check
step prepare coredns make --no-print-directory coredns
step prepare helm make --no-print-directory helm
step prepare agent make --no-print-directory agent
step prepare image make --no-print-directory image
step tests tests make --no-print-directory cargo-test
step check demo make --no-print-directory demo
step check drills make --no-print-directory drills DRILLS=--quick
step check clippy make --no-print-directory clippy
step check docs make --no-print-directory docs-check
step tests model make --no-print-directory model
step tests asan make --no-print-directory asan
step check deny make --no-print-directory deny
finish
