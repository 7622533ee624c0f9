{{/* SPDX-License-Identifier: Apache-2.0 */}}

{{- define "nodens.name" -}}
{{- .Values.nameOverride | default (contains "nodens" .Release.Name | ternary .Release.Name (printf "%s-nodens" .Release.Name)) | trunc 40 | trimSuffix "-" -}}
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

{{/* What must hold before anything is rendered. */}}
{{- define "nodens.validate" -}}
{{- if ne .Release.Namespace .Values.coredns.namespace -}}
{{- fail (printf "\n\nThe release's namespace is %q, and CoreDNS's is %q (coredns.namespace): the Services that nodens asks CoreDNS through select pods of their own namespace alone.\nInstall with --namespace %s, or set coredns.namespace to where CoreDNS runs.\n" .Release.Namespace .Values.coredns.namespace .Values.coredns.namespace) -}}
{{- end -}}
{{- $live := lookup "apps/v1" "DaemonSet" .Release.Namespace (include "nodens.name" .) -}}
{{- if and (not .Values.intercept.enabled) (dig "spec" "template" "spec" "hostNetwork" false $live) -}}
{{- fail "\n\nintercept.enabled: the release has put rules and addresses on the nodes, which pods without rights cannot remove.\nUninstall it first, then install it without interception.\n" -}}
{{- end -}}
{{- if (.Values.config.limits | default dict).drainTimeout -}}
{{- fail "\n\nconfig.limits.drainTimeout: set drainSeconds instead, which the pod's grace period follows.\n" -}}
{{- end -}}
{{- range concat .Values.routes (.Values.config.zones | default list) -}}
{{- if and (eq (.transport | default "tcp") "tls") (not $.Values.extraVolumeMounts) -}}
{{- fail (printf "\n\nroutes: %s is to be asked over TLS, and the image has no authorities to trust: mount some with extraVolumes and extraVolumeMounts, and name their file in caFile.\n" .name) -}}
{{- end -}}
{{- end -}}
{{- with (.Values.resources.limits | default dict).memory -}}
{{- $size := int64 (include "nodens.mebibytes" (($.Values.config.cache | default dict).size | default $.Values.cache.size)) -}}
{{- $limit := int64 (include "nodens.mebibytes" .) -}}
{{- if and (gt $limit 0) (lt $limit (add $size 96)) -}}
{{- fail (printf "\n\nresources.limits.memory: %v is too little for cache.size %v: allow at least %dMi, or the kernel kills the agent when the cache is full.\n" . $.Values.cache.size (add $size 96)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A size of the agent (64MiB, 64MB) or a quantity of Kubernetes (64Mi, 64M) in MiB; 0 where it is neither. */}}
{{- define "nodens.mebibytes" -}}
{{- $text := toString . -}}
{{- $number := regexFind "^[0-9]+" $text | default "0" | int64 -}}
{{- $unit := regexReplaceAll "^[0-9]+" $text "" | trimSuffix "B" -}}
{{- if eq $unit "Gi" -}}{{ mul $number 1024 }}
{{- else if eq $unit "G" -}}{{ div (mul $number 1000000000) 1048576 }}
{{- else if eq $unit "Mi" -}}{{ $number }}
{{- else if eq $unit "M" -}}{{ div (mul $number 1000000) 1048576 }}
{{- else if eq $unit "Ki" -}}{{ div $number 1024 }}
{{- else if or (eq $unit "k") (eq $unit "K") -}}{{ div (mul $number 1000) 1048576 }}
{{- else if eq $unit "" -}}{{ div $number 1048576 }}
{{- else -}}0
{{- end -}}
{{- end -}}

{{/* The addresses of the cluster's DNS Service, as JSON. */}}
{{- define "nodens.dnsService" -}}
{{- $found := .Values.cluster.dnsService -}}
{{- if not $found -}}
{{- $names := .Values.coredns.service | empty | ternary (list "kube-dns" "coredns" "rke2-coredns-rke2-coredns") (list .Values.coredns.service) -}}
{{- range $name := $names -}}
{{- if not $found -}}
{{- $service := lookup "v1" "Service" $.Values.coredns.namespace $name -}}
{{- $addresses := without (dig "spec" "clusterIPs" (list) $service) "None" -}}
{{- if $addresses -}}{{- $found = $addresses -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- if not $found -}}
{{- fail (printf "\n\ncluster.dnsService is not set, and the cluster was not asked or has no Service %s in namespace %s.\nSet it to what pods have as nameserver in their /etc/resolv.conf, e.g. --set cluster.dnsService={10.96.0.10}; it must be set for `helm template` and for tools that render without a cluster, such as Argo CD.\nWhere the Service has another name, set coredns.service.\n" (join " or " $names) .Values.coredns.namespace) -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{/* "4" and "6", as far as node-local addresses are of that family, as JSON. */}}
{{- define "nodens.families" -}}
{{- $families := list -}}
{{- range .Values.listen.addresses -}}
{{- $families = append $families (contains ":" . | ternary "6" "4") -}}
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
{{- contains ":" (include "nodens.dnsService" . | fromJsonArray | first) | ternary "6" "4" -}}
{{- else -}}
{{- include "nodens.families" . | fromJsonArray | first -}}
{{- end -}}
{{- end -}}

{{/* The configuration of the agent. */}}
{{- define "nodens.config" -}}
{{- include "nodens.validate" . -}}
{{- $upstream := dict "root" . "for" "upstream" "family" (include "nodens.upstreamFamily" .) -}}
{{- $root := dict "name" "." "upstreams" (list (include "nodens.serviceEnv" $upstream)) -}}
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

{{/* The configuration, and the files that it names, wherever it is read. */}}
{{- define "nodens.mounts" -}}
- { name: config, mountPath: /etc/nodens, readOnly: true }
- { name: run, mountPath: /run/nodens }
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Where pods of ours run: on every node that there is, in whatever state. */}}
{{- define "nodens.placement" -}}
priorityClassName: system-node-critical
tolerations:
  - operator: Exists
{{- include "nodens.nodes" . }}
{{- end -}}

{{/* Begins with a new line. */}}
{{- define "nodens.nodes" -}}
{{- with .Values.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{ toJson . }}
{{- end }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
{{- end -}}
