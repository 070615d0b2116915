{{/* Names and labels. Every name ends in what it is, and has at most 52 characters: a CronJob adds 11. */}}

{{- define "histgen.fullname" -}}
{{- if contains "histgen" .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-histgen{{ end }}
{{- end }}

{{/* (root, suffix). A name that is too long is cut, and told apart from others by a digest. */}}
{{- define "histgen.name" -}}
{{- $whole := printf "%s-%s" (include "histgen.fullname" .root) .suffix }}
{{- if gt (len $whole) 52 }}
{{- printf "%s-%s" ($whole | trunc 43 | trimSuffix "-" | trimSuffix ".") ($whole | sha256sum | trunc 8) }}
{{- else }}{{ $whole }}{{ end }}
{{- end }}

{{/* (root): selects every pod of this release, and no other's. */}}
{{- define "histgen.release" -}}
app.kubernetes.io/name: histgen
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{/* (root, component): selects the pods of one component. */}}
{{- define "histgen.selector" -}}
{{ include "histgen.release" . }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "histgen.labels" -}}
{{ include "histgen.selector" . }}
app.kubernetes.io/part-of: histgen
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* (root, name, component): the metadata of an object. */}}
{{- define "histgen.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "histgen.labels" . | nindent 2 }}
{{- end }}

{{/* (root, image): a digest decides; without one the tag, by default the chart's version of the software. */}}
{{- define "histgen.image" -}}
{{- if .image.digest }}{{ .image.repository }}@{{ .image.digest }}
{{- else }}{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}{{ end }}
{{- end }}
