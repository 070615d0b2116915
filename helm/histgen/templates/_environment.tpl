{{/* (root, row): the HISTGEN_ variables of a service, by name: what the chart decides, and what the values state. */}}

{{- define "histgen.environment" -}}
{{- $values := .root.Values }}
{{- $row := .row }}
{{- $own := dict "host" $values.host "port" "8080" "bus" (printf "kafka://%s" $values.kafka.bootstrapServers) "bus_partitions" (include "histgen.partitions" .root) }}
{{- $_ := set $own "store" $values.store.url }}
{{- with $values.store.endpoint }}{{ $_ := set $own "store_endpoint" . }}{{ end }}
{{- with $values.store.region }}{{ $_ := set $own "store_region" . }}{{ end }}
{{- with include "histgen.kafkaClient" .root }}{{ $_ := set $own "kafka" . }}{{ end }}
{{- if $values.kafka.login.secretName }}{{ $_ := set $own "kafka_file" "/etc/histgen/kafka-login/client.json" }}{{ end }}
{{- with $values.slides.roots }}{{ $_ := set $own "roots" (toJson .) }}{{ end }}
{{- with $values.slides.watch }}{{ $_ := set $own "watch" . }}{{ end }}
{{- if and $values.retrieval.index (hasKey $row.known "case_index") }}{{ $_ := set $own "case_index" $values.retrieval.index }}{{ end }}
{{- $_ := set $own "grace_s" (include "histgen.grace" .) }}
{{- $_ := set $own "token_file" (ternary "/etc/histgen/token/token" "/var/lib/histgen/token" (not (empty $values.auth.token.secretName))) }}
{{- if $values.auth.tokens.secretName }}{{ $_ := set $own "tokens_file" "/etc/histgen/tokens/tokens.json" }}{{ end }}
{{- if ne ($values.auth.open | sortAlpha | join ",") "metrics,probes" }}{{ $_ := set $own "http_open" (join "," $values.auth.open) }}{{ end }}
{{- with $values.auth.oidc.issuer }}{{ $_ := set $own "oidc_issuer" . }}{{ end }}
{{- with $values.auth.oidc.audience }}{{ $_ := set $own "oidc_audience" . }}{{ end }}
{{- with $values.auth.oidc.scopesClaim }}{{ $_ := set $own "oidc_scopes_claim" . }}{{ end }}
{{- with $values.auth.oidc.scopes }}{{ $_ := set $own "oidc_scopes" (toJson .) }}{{ end }}
{{- if $values.auth.oidc.ca.secretName }}{{ $_ := set $own "ca_file" "/etc/histgen/issuer-ca/ca.crt" }}{{ end }}
{{- if $values.tls.elsewhere }}{{ $_ := set $own "tls_elsewhere" "true" }}{{ end }}
{{- if $values.tls.secretName }}{{ $_ := set $own "tls_cert" "/etc/histgen/tls/tls.crt" }}{{ $_ := set $own "tls_key" "/etc/histgen/tls/tls.key" }}{{ end }}
{{- if eq $row.kind "web" }}
{{- $_ := set $own "http_names" (include "histgen.httpNames" . | fromJsonArray | join ",") }}
{{- if hasKey $row.known "index" }}{{ $_ := set $own "index" "/var/lib/histgen/index.db" }}{{ end }}
{{- end }}
{{- if $row.models }}
{{- $_ := set $own "inference" (include "histgen.inference" .root) }}
{{- if eq $values.inference.mode "onnx" }}
{{- else if $values.inference.secret.secretName }}{{ $_ := set $own "inference_secret" "/etc/histgen/inference/secret" }}{{ end }}
{{- if $values.model.source }}{{ $_ := set $own "model" "/model/current" }}{{ end }}
{{- end }}
{{- if $row.slides }}
{{- $_ := set $own "scratch" "/scratch" }}
{{- $_ := set $own "scratch_bytes" (include "histgen.scratchBytes" .) }}
{{- end }}
{{- range $name := keys $own }}
{{- if not (hasKey $row.known $name) }}
{{- fail (printf "\n\nThis version's %s has no setting %s, which the values ask for (auth, tls or another of the chart's own)." $row.name $name) }}
{{- end }}
{{- end }}
{{- range $name, $value := include "histgen.stated" . | fromJson }}
{{- $_ := set $own $name (include "histgen.asText" (dict "value" $value)) }}
{{- end }}
{{- if and $row.models (hasKey $row.known "threads") (not (hasKey $own "threads")) }}
{{- $_ := set $own "threads" (include "histgen.wholeCores" $row.values.resources.limits.cpu) }}
{{- end }}
{{- range $name := keys $own | sortAlpha }}
- name: HISTGEN_{{ upper $name }}
  value: {{ get $own $name | quote }}
{{- end }}
{{- end }}

{{/* (value): a value of the values as a variable: whole numbers without an exponent, lists and objects as JSON. */}}
{{- define "histgen.asText" -}}
{{- if or (kindIs "slice" .value) (kindIs "map" .value) }}{{ toJson .value }}
{{- else if kindIs "float64" .value }}{{ if eq .value (floor .value) }}{{ int64 .value }}{{ else }}{{ .value }}{{ end }}
{{- else }}{{ .value }}{{ end }}
{{- end }}

{{/* A limit on cores ("2", 2, "1500m") as whole cores, rounded down, at least 1: a process sees all cores of its node, not its share. */}}
{{- define "histgen.wholeCores" -}}
{{- $text := toString . }}
{{- if hasSuffix "m" $text }}{{ max 1 (div (trimSuffix "m" $text | int) 1000) }}{{ else }}{{ max 1 (floor ($text | float64) | int) }}{{ end }}
{{- end }}

{{/* What kafka-python is told, without secrets; empty for a broker without TLS and login. */}}
{{- define "histgen.kafkaClient" -}}
{{- $kafka := .Values.kafka }}
{{- $client := deepCopy $kafka.client }}
{{- if ne $kafka.securityProtocol "PLAINTEXT" }}{{ $_ := set $client "security_protocol" $kafka.securityProtocol }}{{ end }}
{{- if hasPrefix "SASL" $kafka.securityProtocol }}{{ $_ := set $client "sasl_mechanism" $kafka.saslMechanism }}{{ end }}
{{- if $kafka.ca.secretName }}{{ $_ := set $client "ssl_cafile" "/etc/histgen/kafka-ca/ca.crt" }}{{ end }}
{{- if $kafka.certificate.secretName }}
{{- $_ := set $client "ssl_certfile" "/etc/histgen/kafka-certificate/user.crt" }}
{{- $_ := set $client "ssl_keyfile" "/etc/histgen/kafka-certificate/user.key" }}
{{- end }}
{{- if $client }}{{ toJson $client }}{{ end }}
{{- end }}

{{- define "histgen.inference" -}}
{{- if eq .Values.inference.mode "onnx" }}onnx
{{- else if eq .Values.inference.mode "external" }}{{ .Values.inference.url }}
{{- else }}triton://{{ include "histgen.name" (dict "root" . "suffix" "triton") }}:8001{{ end }}
{{- end }}

{{/* (root, row): the names by which others may ask a web service. */}}
{{- define "histgen.httpNames" -}}
{{- $name := include "histgen.name" (dict "root" .root "suffix" .row.name) }}
{{- $namespace := .root.Release.Namespace }}
{{- $names := list $name (printf "%s.%s" $name $namespace) (printf "%s.%s.svc" $name $namespace) (printf "%s.%s.svc.%s" $name $namespace .root.Values.clusterDomain) }}
{{- if and (or .row.entrance .row.values.ingressPaths) .root.Values.ingress.enabled }}{{ $names = append $names .root.Values.ingress.host }}{{ end }}
{{- concat $names .root.Values.httpNames | toJson }}
{{- end }}

{{/* (root, row): volumes of a service. */}}
{{- define "histgen.volumes" -}}
{{- $values := .root.Values }}
- name: tmp
  emptyDir:
    sizeLimit: {{ .row.values.tmpGib }}Gi
- name: state
  emptyDir:
    sizeLimit: {{ .row.values.stateGib }}Gi
{{- if .row.slides }}
- name: scratch
  emptyDir:
    sizeLimit: {{ .row.values.scratchGib }}Gi
{{- end }}
{{- if and .row.models $values.model.source }}
- name: model
  emptyDir:
    sizeLimit: {{ $values.model.gib }}Gi
{{- include "histgen.modelVolumes" . }}
{{- end }}
{{- range include "histgen.secrets" . | fromJsonArray }}
- name: {{ .name }}
  {{- include "histgen.secretSource" . | nindent 2 }}
{{- end }}
{{- range $values.slides.claims }}
- name: slides-{{ .claim }}
  persistentVolumeClaim:
    claimName: {{ .claim }}
    readOnly: true
{{- end }}
{{- include "histgen.storeVolumes" . }}
{{- if and $values.retrieval.claim (hasKey .row.known "case_index") (not .row.entrance) }}
- name: case-index
  persistentVolumeClaim:
    claimName: {{ $values.retrieval.claim }}
{{- end }}
{{- end }}

{{- define "histgen.mounts" -}}
{{- $values := .root.Values }}
- name: tmp
  mountPath: /tmp
- name: state
  mountPath: /var/lib/histgen
{{- if .row.slides }}
- name: scratch
  mountPath: /scratch
{{- end }}
{{- if and .row.models $values.model.source }}
- name: model
  mountPath: /model
  readOnly: true
{{- end }}
{{- range include "histgen.secrets" . | fromJsonArray }}
- name: {{ .name }}
  mountPath: /etc/histgen/{{ .name }}
  readOnly: true
{{- end }}
{{- range $values.slides.claims }}
- name: slides-{{ .claim }}
  mountPath: {{ .mountPath }}
  readOnly: true
{{- end }}
{{- include "histgen.storeMounts" . }}
{{- if and $values.retrieval.claim (hasKey .row.known "case_index") (not .row.entrance) }}
- name: case-index
  mountPath: {{ $values.retrieval.index | trimPrefix "file:" }}
{{- end }}
{{- end }}

{{/* (root, row): the Secrets that a service reads as files: name, secret, and key by file. */}}
{{- define "histgen.secrets" -}}
{{- $values := .root.Values }}
{{- $found := list }}
{{- $pair := dict "tls.crt" "tls.crt" "tls.key" "tls.key" }}
{{- if eq .row.kind "web" }}{{ $_ := set $pair "ca.crt" "ca.crt" }}{{ end }}
{{- with $values.auth.token }}{{ if .secretName }}{{ $found = append $found (dict "name" "token" "secret" .secretName "items" (dict "token" .key)) }}{{ end }}{{ end }}
{{- with $values.auth.tokens }}{{ if .secretName }}{{ $found = append $found (dict "name" "tokens" "secret" .secretName "items" (dict "tokens.json" .key)) }}{{ end }}{{ end }}
{{- with $values.auth.oidc.ca }}{{ if .secretName }}{{ $found = append $found (dict "name" "issuer-ca" "secret" .secretName "items" (dict "ca.crt" .key)) }}{{ end }}{{ end }}
{{- with $values.tls }}{{ if .secretName }}{{ $found = append $found (dict "name" "tls" "secret" .secretName "items" $pair) }}{{ end }}{{ end }}
{{- with $values.kafka.login }}{{ if .secretName }}{{ $found = append $found (dict "name" "kafka-login" "secret" .secretName "items" (dict "client.json" .clientKey)) }}{{ end }}{{ end }}
{{- with $values.kafka.ca }}{{ if .secretName }}{{ $found = append $found (dict "name" "kafka-ca" "secret" .secretName "items" (dict "ca.crt" .key)) }}{{ end }}{{ end }}
{{- with $values.kafka.certificate }}{{ if .secretName }}{{ $found = append $found (dict "name" "kafka-certificate" "secret" .secretName "items" (dict "user.crt" .certKey "user.key" .keyKey)) }}{{ end }}{{ end }}
{{- if and .row.models (ne $values.inference.mode "onnx") }}
{{- with $values.inference.secret }}{{ if .secretName }}{{ $found = append $found (dict "name" "inference" "secret" .secretName "items" (dict "secret" .key)) }}{{ end }}{{ end }}
{{- end }}
{{- $found | toJson }}
{{- end }}
