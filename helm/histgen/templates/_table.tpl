{{/* The table of services (files/services.json, written by `make chart`), with what the values say of each. */}}

{{- define "histgen.table" -}}
{{- if not (hasKey .Values "computed") }}{{ $_ := set .Values "computed" (include "histgen.computed" .) }}{{ end }}
{{- .Values.computed }}
{{- end }}

{{/* The same, worked out: once a release, since it takes most of the time of rendering. */}}
{{- define "histgen.computed" -}}
{{- $root := . }}
{{- $table := .Files.Get "files/services.json" | fromJson }}
{{- $rows := list }}
{{- range $row := $table.services }}
{{- $values := mustMergeOverwrite (deepCopy (get $root.Values.kinds $row.kind)) (deepCopy (get $root.Values.services $row.name | default dict)) }}
{{- $models := or (eq $row.kind "worker") $row.retrieval }}
{{- if and $values.enabled (or (not $row.retrieval) $root.Values.retrieval.index) }}
{{- $rows = append $rows (dict "name" $row.name "kind" $row.kind "models" $models "slides" (and (eq $row.kind "worker") (not $row.retrieval)) "takes" $row.takes "gives" $row.gives "entrance" $row.entrance "known" $row.settings "values" $values) }}
{{- end }}
{{- end }}
{{- dict "rows" $rows "topics" $table.topics "retention_ms" $table.retention_ms "all" $table.services | toJson }}
{{- end }}

{{/* Partitions of each topic: what the values say, else as many as the service with the most workers has. */}}
{{- define "histgen.partitions" -}}
{{- $most := 12 }}
{{- range (include "histgen.table" . | fromJson).rows }}
{{- if .takes }}{{ $most = max $most (include "histgen.most" (dict "root" $ "row" .) | int) }}{{ end }}
{{- end }}
{{- .Values.kafka.partitions | int | default $most }}
{{- end }}

{{/* (root, row): the most workers of a service at a time. */}}
{{- define "histgen.most" -}}
{{- if .root.Values.autoscaling.enabled }}{{ .row.values.maxReplicas | int }}{{ else }}{{ .row.values.replicas | int }}{{ end }}
{{- end }}

{{/* (root, row): all settings that the values state for a service, refused if the service does not know them. */}}
{{- define "histgen.stated" -}}
{{- $row := .row }}
{{- $own := dict "bus" "kafka.bootstrapServers" "kafka" "kafka" "kafka_file" "kafka.login" "bus_partitions" "kafka.partitions" "store" "store.url" "store_endpoint" "store.endpoint" "store_region" "store.region" "inference" "inference" "inference_secret" "inference.secret" "model" "model.source" "case_index" "retrieval.index" "host" "host" "port" "nothing: it is fixed" "http_names" "ingress.host and httpNames" "token_file" "auth.token" "tokens_file" "auth.tokens" "oidc_issuer" "auth.oidc.issuer" "oidc_audience" "auth.oidc.audience" "oidc_scopes_claim" "auth.oidc.scopesClaim" "oidc_scopes" "auth.oidc.scopes" "ca_file" "auth.oidc.ca" "tls_elsewhere" "tls.elsewhere" "http_open" "auth.open" "tls_cert" "tls" "tls_key" "tls" "scratch" "nothing: it is fixed" "scratch_bytes" "scratchGib" "index" "nothing: it is fixed" "run_dir" "nothing" "watch" "slides.watch" "roots" "slides.roots" "retention" "retention" }}
{{- $stated := mustMergeOverwrite (deepCopy .root.Values.settings) (deepCopy (.row.values.settings | default dict)) }}
{{- range $name, $value := $stated }}
{{- if hasKey $own $name }}
{{- fail (printf "\n\nsettings.%s: the chart sets HISTGEN_%s itself; use %s." $name (upper $name) (get $own $name)) }}
{{- end }}
{{- if not (hasKey $row.known $name) }}
{{- $free := list }}
{{- range $known := keys $row.known | sortAlpha }}{{ if not (hasKey $own $known) }}{{ $free = append $free $known }}{{ end }}{{ end }}
{{- fail (printf "\n\nsettings.%s: the %s has no such setting. It has: %s." $name $row.name (join ", " $free)) }}
{{- end }}
{{- include "histgen.checked" (dict "of" $row.name "name" $name "value" $value "schema" (get $row.known $name)) }}
{{- end }}
{{- $stated | toJson }}
{{- end }}

{{/* (of, name, value, schema): nothing, or a refusal of a value that the service would refuse at its start. */}}
{{- define "histgen.checked" -}}
{{- $of := printf "\n\nsettings.%s of the %s must be" .name .of }}
{{- $number := or (kindIs "float64" .value) (kindIs "int64" .value) (kindIs "int" .value) }}
{{- if and (has .schema.type (list "integer" "number")) (not $number) }}
{{- fail (printf "%s a number." $of) }}
{{- end }}
{{- if and (eq (.schema.type | default "") "integer") (ne (.value | float64) (floor .value)) }}
{{- fail (printf "%s a whole number." $of) }}
{{- end }}
{{- if and .schema.enum (not (has .value .schema.enum)) }}
{{- fail (printf "%s one of %s." $of (join ", " .schema.enum)) }}
{{- end }}
{{- if $number }}
{{- if and (hasKey .schema "minimum") (lt (.value | float64) (.schema.minimum | float64)) }}
{{- fail (printf "%s at least %v." $of (.schema.minimum | int64)) }}
{{- end }}
{{- if and (hasKey .schema "exclusiveMinimum") (le (.value | float64) (.schema.exclusiveMinimum | float64)) }}
{{- fail (printf "%s more than %v." $of (.schema.exclusiveMinimum | int64)) }}
{{- end }}
{{- if and (hasKey .schema "maximum") (gt (.value | float64) (.schema.maximum | float64)) }}
{{- fail (printf "%s at most %v." $of (.schema.maximum | int64)) }}
{{- end }}
{{- end }}
{{- end }}

{{/* (root, row, name): the value of a numeric setting in force, stated or by default, rounded up. */}}
{{- define "histgen.inForce" -}}
{{- $stated := include "histgen.stated" . | fromJson }}
{{- if hasKey $stated .name }}{{ get $stated .name | ceil | int64 }}{{ else }}{{ (get .row.known .name).default | ceil | int64 }}{{ end }}
{{- end }}

{{/* (root, row): seconds that a stopping service has to finish what it has in hand: a worker, its whole job. */}}
{{- define "histgen.grace" -}}
{{- $stated := include "histgen.stated" . | fromJson }}
{{- $least := 0 }}
{{- if eq .row.kind "worker" }}{{ $least = include "histgen.inForce" (merge (dict "name" "deadline_s") .) | int64 }}{{ end }}
{{- $grace := $least }}
{{- if or (hasKey $stated "grace_s") (eq .row.kind "web") }}{{ $grace = include "histgen.inForce" (merge (dict "name" "grace_s") .) | int64 }}{{ end }}
{{- if lt $grace $least }}
{{- fail (printf "\n\nsettings.grace_s of the %s must be at least its deadline_s (%d): otherwise a drain or a roll-out throws away a running job. Leave it out." .row.name $least) }}
{{- end }}
{{- $grace }}
{{- end }}

{{/* (root, row): after that: uploading what was made, publishing, handing back; for a web service, leaving the endpoints first. */}}
{{- define "histgen.termination" -}}
{{- add (include "histgen.grace" .) .row.values.uploadSeconds .row.values.leaveSeconds }}
{{- end }}

{{/* (root, row): bytes that copies of slides may take: the room for them, less the slide in hand. */}}
{{- define "histgen.scratchBytes" -}}
{{- $slide := include "histgen.inForce" (merge (dict "name" "slide_bytes") .) | int64 }}
{{- $room := mul (.row.values.scratchGib | int64) 1073741824 }}
{{- if lt (sub $room $slide) 1073741824 }}
{{- fail (printf "\n\nscratchGib of the %s must be at least %d: the largest slide (settings.slide_bytes) and 1 GiB for others." .row.name (div (add $slide 2147483647) 1073741824)) }}
{{- end }}
{{- sub $room $slide }}
{{- end }}
