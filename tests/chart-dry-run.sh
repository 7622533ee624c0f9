#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Asks the API server of a cluster, without changing anything, whether it takes what the chart comes to in
# every scenario: KUBECONFIG=FILE make chart-dry-run. No part of `make test`, which has no cluster.
# KUBECTL and HELM name the programs. What an API server without IPv6, or without the Prometheus
# operator, refuses of the scenarios for these is left out: IPV6=1, OPERATOR=1 put it in.
set -euo pipefail
cd "$(dirname "$0")/.."
kubectl=${KUBECTL:-kubectl}
helm=${HELM:-$(echo "${XDG_CACHE_HOME:-$HOME/.cache}"/nodens/helm-*/helm)}
rendered=$(mktemp)
trap 'rm -f "$rendered"' EXIT
passed=0 failed=0
for scenario in charts/nodens/ci/*.yaml; do
	name=$(basename "$scenario" -values.yaml)
	case $name in ipv6 | dual-stack) [ -n "${IPV6:-}" ] || continue ;; esac
	values=()
	[ -n "${OPERATOR:-}" ] || values=(--set podMonitor.enabled=false,prometheusRule.enabled=false)
	"$helm" template dry-run charts/nodens --namespace kube-system -f "$scenario" "${values[@]}" >"$rendered"
	if $kubectl --namespace kube-system apply --server-side --dry-run=server -f "$rendered" >/dev/null; then
		passed=$((passed + 1))
	else
		echo "refused: $name"
		failed=$((failed + 1))
	fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
