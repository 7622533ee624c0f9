# SPDX-License-Identifier: Apache-2.0
# What node-cache (cmd/node-cache/app of kubernetes/dns 1.26.8) does around CoreDNS, in its order: the
# Corefile out of the template, interface and addresses, CoreDNS, and the rules once that listens; what is
# missing every minute; at SIGTERM the rules, the interface, CoreDNS. It stands for node-cache in
# an image of its own (src/acceptance/scenarios/drop_in.rs), as node-cache's own cannot be had everywhere.
# A bridge stands for its dummy, which not every kernel has. Run by busybox' sh.
set -eu
export XTABLES_LIBDIR=/xtables

while [ $# -gt 1 ]; do
	case $1 in
	-localip) ips=$(echo "$2" | /busybox tr , ' ') ;;
	-conf) conf=$2 ;;
	-upstreamsvc) service=$2 ;;
	*)
		echo "node-cache: unknown flag $1" >&2
		exit 2
		;;
	esac
	shift 2
done
variable=$(echo "$service" | /busybox tr 'a-z-' 'A-Z_')_SERVICE_HOST
eval "upstream=\$$variable"

/busybox sed -e "s|__PILLAR__CLUSTER__DNS__|$upstream|; s|__PILLAR__UPSTREAM__SERVERS__|/etc/resolv.conf|" \
	/etc/coredns/Corefile.base >"$conf"
# One stub domain with one server: {"NAME": ["ADDRESS"]}.
stubs=/etc/kube-dns/stubDomains
if [ -e $stubs ]; then
	# shellcheck disable=SC2046 # two words
	set -- $(/busybox tr -c 'a-zA-Z0-9.-' ' ' <$stubs)
	printf '%s:53 {\n errors\n cache 30\n bind %s\n forward . %s {\n force_tcp\n }\n prometheus :9253\n}\n' \
		"$1" "$ips" "$2" >>"$conf"
fi

interface() {
	/busybox ip link add nodelocaldns type bridge 2>/dev/null || :
	for ip in $ips; do
		/busybox ip address add "$ip/32" dev nodelocaldns 2>/dev/null || :
	done
}

# VERB IP TABLE CHAIN PROTOCOL SIDE PORT TARGET COMMENT
rule() {
	/xtables-nft-multi iptables -w 5 -t "$3" "$1" "$4" -p "$5" "-$6" "$2" "--${6}port" "$7" -j "$8" \
		-m comment --comment "NodeLocal DNS Cache: $9"
}

# COMMAND for each rule of each address
each() {
	for ip in $ips; do
		while read -r table chain proto side port target comment; do
			case $table in
			\#*) ;;
			*) "$1" "$ip" "$table" "$chain" "$proto" "$side" "$port" "$target" "$comment" ;;
			esac
		done </node-cache.rules
	done
}

put() {
	rule -C "$@" 2>/dev/null || rule -I "$@"
}

take() {
	rule -D "$@" || :
}

end() {
	each take
	/busybox ip link delete nodelocaldns || :
	kill -TERM "$coredns"
	wait "$coredns" || :
	exit 0
}

interface
/coredns -conf "$conf" -pidfile /coredns.pid &
coredns=$!
trap end TERM
until [ -s /coredns.pid ]; do
	kill -0 "$coredns"
	/busybox sleep 0.1
done
while kill -0 "$coredns" 2>/dev/null; do
	interface
	each put
	/busybox sleep 60 &
	wait $! || :
done
