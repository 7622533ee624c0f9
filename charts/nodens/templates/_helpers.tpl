{{/* SPDX-License-Identifier: Apache-2.0 */}}

{{- define "nodens.name" -}}
{{- $release := .Release.Name | replace "." "-" -}}
{{- $name := contains "nodens" $release | ternary $release (printf "%s-nodens" $release) -}}
{{- /* Names of Services begin with a letter. */ -}}
{{- $name = regexMatch "^[a-z]" $name | ternary $name (printf "nodens-%s" $release) -}}
{{- .Values.nameOverride | default $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "nodens.selector" -}}
app.kubernetes.io/name: {{ include "nodens.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "nodens.labels" -}}
{{ include "nodens.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "nodens.image" -}}
{{- .Values.image.repository -}}
{{- if .Values.image.digest -}}@{{ .Values.image.digest }}{{- else -}}:{{ .Values.image.tag | default .Chart.AppVersion }}{{- end -}}
{{- end -}}

{{/* What must hold before anything is rendered. Looked at once: each lookup asks the API server twice. */}}
{{- define "nodens.validate" -}}
{{- if not (hasKey . "nodensIsValid") -}}
{{- $_ := set . "nodensIsValid" true -}}
{{- if ne .Release.Namespace .Values.coredns.namespace -}}
{{- fail (printf "\n\nThe release's namespace is %q, and CoreDNS's is %q (coredns.namespace): the Services that nodens asks CoreDNS through select pods of their own namespace alone.\nInstall with --namespace %s, or set coredns.namespace to where CoreDNS runs.\n" .Release.Namespace .Values.coredns.namespace .Values.coredns.namespace) -}}
{{- end -}}
{{- include "nodens.validateLive" . -}}
{{- include "nodens.validateConfig" . -}}
{{- if .Values.intercept.enabled -}}
{{- include "nodens.validateAddresses" . -}}
{{- end -}}
{{- include "nodens.validateRoutes" . -}}
{{- include "nodens.validateMemory" . -}}
{{- end -}}
{{- end -}}

{{/* Against what the cluster has already, where it can be asked. */}}
{{- define "nodens.validateLive" -}}
{{- $name := include "nodens.name" . -}}
{{- range dig "items" (list) (lookup "apps/v1" "DaemonSet" .Release.Namespace "") -}}
{{- $isOnNodes := dig "spec" "template" "spec" "hostNetwork" false . -}}
{{- if and $isOnNodes (eq (dig "metadata" "labels" "app.kubernetes.io/part-of" "" .) "nodens") -}}
{{- if ne .metadata.name $name -}}
{{- fail (printf "\n\nThe DaemonSet %s is a nodens already (release %s), and this would be another, %s. Two cannot own one node's rules, and uninstalling one would remove those of the other.\nUninstall it first; nameOverride cannot be changed meanwhile either.\n" .metadata.name (dig "metadata" "labels" "app.kubernetes.io/instance" "?" .) $name) -}}
{{- end -}}
{{- if not $.Values.intercept.enabled -}}
{{- fail "\n\nintercept.enabled: the release has put rules and addresses on the nodes, which pods without rights cannot remove.\nUninstall it first, then install it without interception.\n" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Keys of config for which there is a value, by which other objects go too. */}}
{{- define "nodens.validateConfig" -}}
{{- $instead := dict
  "admin.health" "leave it out: the probes of the chart expect it where it is"
  "admin.metrics" "set metrics.port instead, which the PodMonitor follows"
  "admin.socket" "leave it out: the directory that an uninstallation shares with the agent is /run/nodens"
  "cache.size" "set cache.size instead, which the memory limit is held against"
  "cluster.dnsService" "set cluster.dnsService instead"
  "cluster.domain" "set cluster.domain instead"
  "intercept.enabled" "set intercept.enabled instead, which the rights of the pods follow"
  "intercept.fallback" "set intercept.fallback instead, which the Services follow"
  "limits.drainTimeout" "set drainSeconds instead, which the pod's grace period follows"
  "listen.addresses" "set listen.addresses instead, which the Services follow"
  "listen.port" "leave it out: pods ask port 53"
-}}
{{- range $path, $remedy := $instead -}}
{{- $parts := splitList "." $path -}}
{{- if hasKey (get $.Values.config (first $parts) | default dict) (last $parts) -}}
{{- fail (printf "\n\nconfig.%s: %s.\n" $path $remedy) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.routes .Values.config.zones -}}
{{- fail "\n\nconfig.zones takes the place of all zones, so that routes would be dropped: write the routes there, too, or leave config.zones out.\n" -}}
{{- end -}}
{{- end -}}

{{/* Addresses that no query could be steered to or from. */}}
{{- define "nodens.validateAddresses" -}}
{{- $families := list -}}
{{- range .Values.listen.addresses -}}
{{- if regexMatch "^(0|127|22[4-9]|23[0-9]|24[0-9]|25[0-5])[.]|^::1?$|^[fF][eE][89abAB]|^[fF][fF]" . -}}
{{- fail (printf "\n\nlisten.addresses: %s can be no node-local address: take one like 169.254.20.10, or a unique local one like fd00:4e4f::10.\n" .) -}}
{{- end -}}
{{- if has . $.Values.cluster.dnsService -}}
{{- fail (printf "\n\nlisten.addresses: %s is the cluster's DNS Service, which stays where it is: take an address that nobody has, like 169.254.20.10.\n" .) -}}
{{- end -}}
{{- $family := include "nodens.family" . -}}
{{- if has $family $families -}}
{{- fail (printf "\n\nlisten.addresses: %s is the second of IPv%s, and one a family is enough.\n" . $family) -}}
{{- end -}}
{{- $families = append $families $family -}}
{{- end -}}
{{- range .Values.cluster.dnsService -}}
{{- $family := include "nodens.family" . -}}
{{- if not (has $family $families) -}}
{{- fail (printf "\n\ncluster.dnsService: %s has no node-local address of its family: add one to listen.addresses, such as %s, or leave it out here; its queries go to CoreDNS then.\n" . (include "nodens.example" $family)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "nodens.validateRoutes" -}}
{{- $names := list "." -}}
{{- range .Values.routes -}}
{{- $name := .name | lower | trimSuffix "." | default "." -}}
{{- if has $name $names -}}
{{- fail (printf "\n\nroutes: %s is there already%s.\n" .name (eq $name "." | ternary ": the root zone is CoreDNS's; to change it, write all zones in config.zones" "")) -}}
{{- end -}}
{{- $names = append $names $name -}}
{{- $upstreams := .upstreams | default list -}}
{{- if kindIs "string" $upstreams -}}{{- $upstreams = splitList "," $upstreams -}}{{- end -}}
{{- range $upstreams -}}
{{- if has (. | trimSuffix ":53" | trimPrefix "[" | trimSuffix "]") $.Values.cluster.dnsService -}}
{{- fail (printf "\n\nroutes: %s is the cluster's DNS Service, whose queries come back to nodens: to ask CoreDNS name %s.\n" . (include "nodens.upstream" $)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range concat .Values.routes (.Values.config.zones | default list) -}}
{{- if and (eq (.transport | default "tcp") "tls") (not $.Values.extraVolumeMounts) -}}
{{- fail (printf "\n\nroutes: %s is to be asked over TLS, and the image has no authorities to trust: mount some with extraVolumes and extraVolumeMounts, and name their file in caFile.\n" .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "nodens.validateMemory" -}}
{{- $size := int64 (include "nodens.mebibytes" .Values.cache.size) -}}
{{- if or (lt $size 1) (gt $size 65536) -}}
{{- fail (printf "\n\ncache.size: %v is not between 1MiB and 64GiB.\n" .Values.cache.size) -}}
{{- end -}}
{{- with (.Values.resources.limits | default dict).memory -}}
{{- $limit := int64 (include "nodens.mebibytes" .) -}}
{{- if lt $limit (add $size 96) -}}
{{- fail (printf "\n\nresources.limits.memory: %v is too little for cache.size %v: allow at least %dMi, or the kernel kills the agent when the cache is full.\n" . $.Values.cache.size (add $size 96)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A size of the agent (64MiB, 64MB) or a quantity of Kubernetes (64Mi, 0.25G, 64e6), or a number of octets,
     in whole MiB. */}}
{{- define "nodens.mebibytes" -}}
{{- $text := kindIs "string" . | ternary . (printf "%d" (int64 .)) -}}
{{- $number := regexFind "^[0-9]+([.][0-9]+)?([eE][0-9]+)?" $text -}}
{{- $unit := trimPrefix $number $text | trimSuffix "B" -}}
{{- $octets := get (dict "" 1 "k" 1e3 "Ki" 1024 "M" 1e6 "Mi" 1048576 "G" 1e9 "Gi" 1073741824 "T" 1e12 "Ti" 1099511627776) $unit -}}
{{- if or (not $number) (not $octets) -}}
{{- fail (printf "\n\n%q is no amount of memory: write it like 256Mi.\n" $text) -}}
{{- end -}}
{{- divf (mulf (float64 $number) $octets) 1048576 | floor | int64 -}}
{{- end -}}

{{- define "nodens.family" -}}
{{- contains ":" . | ternary "6" "4" -}}
{{- end -}}

{{/* A node-local address of a family that would do. */}}
{{- define "nodens.example" -}}
{{- eq . "6" | ternary "fd00:4e4f::10" "169.254.20.10" -}}
{{- end -}}

{{/* The names under which CoreDNS's Service is looked for, as JSON. */}}
{{- define "nodens.corednsNames" -}}
{{- toJson (.Values.coredns.service | empty | ternary (list "kube-dns" "coredns" "rke2-coredns-rke2-coredns") (list .Values.coredns.service)) -}}
{{- end -}}

{{/* What the cluster says of CoreDNS's Service, as JSON; empty where it cannot be asked or has none. */}}
{{- define "nodens.corednsSpec" -}}
{{- if not (hasKey . "nodensCorednsSpec") -}}
{{- $spec := dict -}}
{{- range include "nodens.corednsNames" . | fromJsonArray -}}
{{- if not $spec -}}
{{- $found := dig "spec" (dict) (lookup "v1" "Service" $.Values.coredns.namespace .) -}}
{{- if without ($found.clusterIPs | default list) "None" -}}{{- $spec = $found -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- $_ := set . "nodensCorednsSpec" (toJson $spec) -}}
{{- end -}}
{{- .nodensCorednsSpec -}}
{{- end -}}

{{/* The addresses of the cluster's DNS Service whose queries are steered, as JSON. */}}
{{- define "nodens.dnsService" -}}
{{- $steered := .Values.cluster.dnsService -}}
{{- if not $steered -}}
{{- $found := (include "nodens.corednsSpec" . | fromJson).clusterIPs -}}
{{- if not $found -}}
{{- fail (printf "\n\ncluster.dnsService is not set, and the cluster was not asked or has no Service %s in namespace %s.\nSet it to what pods have as nameserver in their /etc/resolv.conf, e.g. --set cluster.dnsService={10.96.0.10}; it must be set for `helm template` and for tools that render without a cluster, such as Argo CD.\nWhere the Service has another name, set coredns.service.\n" (include "nodens.corednsNames" . | fromJsonArray | join " or ") .Values.coredns.namespace) -}}
{{- end -}}
{{- $families := include "nodens.families" . | fromJsonArray -}}
{{- range $found -}}
{{- if has (include "nodens.family" .) $families -}}{{- $steered = append $steered . -}}{{- end -}}
{{- end -}}
{{- if not $steered -}}
{{- $example := include "nodens.example" (include "nodens.family" (first $found)) -}}
{{- fail (printf "\n\nlisten.addresses has no address of the family of the cluster's DNS Service, %s: add one that nobody has, e.g. --set listen.addresses={%s}.\n" (join " and " $found) $example) -}}
{{- end -}}
{{- end -}}
{{- toJson $steered -}}
{{- end -}}

{{/* Its addresses whose queries go on to CoreDNS, as no node-local address has their family, as JSON. */}}
{{- define "nodens.notSteered" -}}
{{- $rest := list -}}
{{- if not .Values.cluster.dnsService -}}
{{- $steered := include "nodens.dnsService" . | fromJsonArray -}}
{{- range (include "nodens.corednsSpec" . | fromJson).clusterIPs -}}
{{- if not (has . $steered) -}}{{- $rest = append $rest . -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $rest -}}
{{- end -}}

{{/* How CoreDNS's pods are found, as JSON: what is given, else what their Service says, else what is usual. */}}
{{- define "nodens.corednsSelector" -}}
{{- $spec := include "nodens.corednsSpec" . | fromJson -}}
{{- toJson (coalesce .Values.coredns.selector $spec.selector (dict "k8s-app" "kube-dns")) -}}
{{- end -}}

{{/* dict "root" . "protocol" "UDP"|"TCP" */}}
{{- define "nodens.corednsPort" -}}
{{- $port := .root.Values.coredns.port -}}
{{- range (include "nodens.corednsSpec" .root | fromJson).ports -}}
{{- if and (not $port) (eq .protocol $.protocol) (eq (int .port) 53) -}}{{- $port = .targetPort -}}{{- end -}}
{{- end -}}
{{- toJson (kindIs "string" $port | ternary $port (int ($port | default 53))) -}}
{{- end -}}

{{/* "4" and "6", as far as node-local addresses are of that family, as JSON. */}}
{{- define "nodens.families" -}}
{{- $families := list -}}
{{- range .Values.listen.addresses -}}
{{- $families = append $families (include "nodens.family" .) -}}
{{- end -}}
{{- toJson (uniq $families) -}}
{{- end -}}

{{/* The Service by which CoreDNS is asked, or is asked in the agent's place, in one family.
     dict "root" . "for" "upstream"|"fallback" "family" "4"|"6" */}}
{{- define "nodens.serviceName" -}}
{{- include "nodens.name" .root }}-{{ .for }}{{ eq .family "6" | ternary "6" "" }}
{{- end -}}

{{/* The same as an address of the configuration: Kubernetes names the Service in the environment. */}}
{{- define "nodens.serviceEnv" -}}
env:{{ include "nodens.serviceName" . | upper | replace "-" "_" }}_SERVICE_HOST
{{- end -}}

{{/* Upstreams need one family: the first. */}}
{{- define "nodens.upstreamFamily" -}}
{{- if .Values.intercept.enabled -}}
{{- include "nodens.family" (include "nodens.dnsService" . | fromJsonArray | first) -}}
{{- else -}}
{{- include "nodens.families" . | fromJsonArray | first -}}
{{- end -}}
{{- end -}}

{{/* CoreDNS as an upstream in the configuration. */}}
{{- define "nodens.upstream" -}}
{{- include "nodens.serviceEnv" (dict "root" . "for" "upstream" "family" (include "nodens.upstreamFamily" .)) -}}
{{- end -}}

{{/* The configuration of the agent. */}}
{{- define "nodens.config" -}}
{{- include "nodens.validate" . -}}
{{- $root := dict "name" "." "upstreams" (list (include "nodens.upstream" .)) -}}
{{- $config := dict
  "version" 1
  "cluster" (dict "domain" .Values.cluster.domain)
  "limits" (dict "drainTimeout" (printf "%ds" (int64 .Values.drainSeconds)))
  "cache" (dict "size" .Values.cache.size)
  "zones" (prepend .Values.routes $root)
-}}
{{- if .Values.intercept.enabled -}}
{{- $fallback := list -}}
{{- if .Values.intercept.fallback -}}
{{- range include "nodens.families" . | fromJsonArray -}}
{{- $fallback = append $fallback (include "nodens.serviceEnv" (dict "root" $ "for" "fallback" "family" .)) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $config.cluster "dnsService" (include "nodens.dnsService" . | fromJsonArray) -}}
{{- $_ := set $config "listen" (dict "addresses" .Values.listen.addresses) -}}
{{- $_ := set $config "admin" (dict "health" "127.0.0.1:9254") -}}
{{- $_ := set $config "intercept" (dict "enabled" true "fallback" ($fallback | default "off")) -}}
{{- else -}}
{{- $any := list -}}
{{- range include "nodens.families" . | fromJsonArray -}}
{{- $any = append $any (eq . "6" | ternary "::" "0.0.0.0") -}}
{{- end -}}
{{- $_ := set $config "listen" (dict "addresses" $any) -}}
{{- $_ := set $config "intercept" (dict "enabled" false) -}}
{{- end -}}
{{- toYaml (mergeOverwrite $config (deepCopy .Values.config)) -}}
{{- end -}}

{{- define "nodens.configName" -}}
{{- include "nodens.name" . }}-config-{{ include "nodens.config" . | sha256sum | trunc 10 }}
{{- end -}}

{{/* Where kubelet finds /healthz and /readyz. On the node's own network not at a node-local address, which
     an uninstallation takes away from an agent that lives on for a while: it must not be restarted then. */}}
{{- define "nodens.probe" -}}
{{- if .Values.intercept.enabled }}
host: 127.0.0.1
{{- end }}
port: 9254
{{- end -}}

{{/* What all containers of ours are held to. `dict "root" . "capabilities" (list …)` */}}
{{- define "nodens.securityContext" -}}
runAsUser: 0
runAsGroup: 0
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  {{- with .capabilities }}
  add: {{ toJson . }}
  {{- end }}
seccompProfile: { type: RuntimeDefault }
{{- with .root.Values.seLinuxOptions }}
seLinuxOptions: {{ toJson . }}
{{- end }}
{{- end -}}

{{/* The metadata of what an uninstallation makes. dict "root" . "name" … "hook" … "weight" … */}}
{{- define "nodens.hook" -}}
name: {{ .name }}
labels:
  {{- include "nodens.labels" .root | nindent 2 }}
annotations:
  helm.sh/hook: {{ .hook }}
  helm.sh/hook-weight: {{ .weight | quote }}
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{/* Where what cleans up after the agents runs: on every node where they may have been, whatever the values
     say of nodes by now. Begins with a new line. */}}
{{- define "nodens.everywhere" }}
nodeSelector: { kubernetes.io/os: linux }
affinity:
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms:
        - matchExpressions:
            - { key: type, operator: NotIn, values: [virtual-kubelet] }
            - { key: eks.amazonaws.com/compute-type, operator: NotIn, values: [fargate] }
{{- include "nodens.pullSecrets" . }}
{{- end -}}

{{/* Begins with a new line. */}}
{{- define "nodens.nodes" -}}
{{- with .Values.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{ toJson . }}
{{- end }}
{{- include "nodens.pullSecrets" . }}
{{- end -}}

{{/* Begins with a new line. */}}
{{- define "nodens.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
{{- end -}}
