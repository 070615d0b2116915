{{/* What all pods have in common: who they run as, what they may use, where they run. */}}

{{- define "histgen.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
{{- with .root.Values.slides.groups }}
supplementalGroups: [{{ range $index, $group := . }}{{ if $index }}, {{ end }}{{ int64 $group }}{{ end }}]
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "histgen.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* (resources, gib): requests and limits, with disk for its volumes and 1 GiB for its log. */}}
{{- define "histgen.resources" -}}
requests:
  cpu: {{ .resources.requests.cpu | quote }}
  memory: {{ .resources.requests.memory | quote }}
  ephemeral-storage: {{ add .gib 1 }}Gi
limits:
  cpu: {{ .resources.limits.cpu | quote }}
  memory: {{ .resources.limits.memory | quote }}
  ephemeral-storage: {{ add .gib 1 }}Gi
{{- end }}

{{/* What a small step (a hook, a prune) may use. */}}
{{- define "histgen.smallResources" -}}
{{ include "histgen.resources" (dict "gib" 0 "resources" (dict "requests" (dict "cpu" "50m" "memory" "128Mi") "limits" (dict "cpu" "1" "memory" "1Gi"))) }}
{{- end }}

{{/* (root, component, values): where pods run, and who they are to the cluster: nobody. */}}
{{- define "histgen.placement" -}}
serviceAccountName: {{ include "histgen.name" (dict "root" .root "suffix" .component) }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  {{- include "histgen.podSecurity" . | nindent 2 }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .values.priorityClassName }}
priorityClassName: {{ .values.priorityClassName }}
{{- else if and .root.Values.priorityClasses.create .priority }}
priorityClassName: {{ include "histgen.priorityClass" (dict "root" .root "kind" .priority) }}
{{- end }}
{{- end }}

{{/* (root, kind). Priority classes belong to no namespace, so their names state one; and they cannot be changed, so another value is another name. */}}
{{- define "histgen.priorityClass" -}}
{{- $whole := printf "%s-%s-%s" (include "histgen.fullname" .root) .kind .root.Release.Namespace }}
{{- $classes := .root.Values.priorityClasses }}
{{- printf "%s-%s" ($whole | trunc 54 | trimSuffix "-") (printf "%s %d %s" $whole (get $classes.values .kind | int64) $classes.preemptionPolicy | sha256sum | trunc 8) }}
{{- end }}

{{/* (root, component): spread over nodes and zones where that is possible. */}}
{{- define "histgen.spread" -}}
{{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "histgen.selector" $ | nindent 6 }}
{{- end }}
{{- end }}

{{/* (root, component, annotations): a service account without any right, and without a token in the pod. */}}
{{- define "histgen.account" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "histgen.metadata" (dict "root" .root "component" .component "name" (include "histgen.name" (dict "root" .root "suffix" .component))) | nindent 2 }}
  {{- with .root.Values.serviceAccount.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}

{{/* (secret, items): a Secret as files that only the service's group can read. `items`: file by key. */}}
{{- define "histgen.secretSource" -}}
secret:
  secretName: {{ .secret }}
  defaultMode: 0440
  items:
    {{- range $file, $key := .items }}
    - key: {{ $key }}
      path: {{ $file }}
    {{- end }}
{{- end }}

{{/* (root): the environment by which Amazon's tools find credentials and whom to trust. */}}
{{- define "histgen.storeEnvironment" -}}
{{- $store := .root.Values.store }}
{{- with $store.login.secretName }}
- name: AWS_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $store.login.idKey }}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $store.login.secretKey }}
{{- end }}
{{- if $store.ca.secretName }}
- name: AWS_CA_BUNDLE
  value: /etc/histgen/store/ca.crt
{{- end }}
{{- end }}

{{/* (root): the volumes for that, and their mounts. */}}
{{- define "histgen.storeVolumes" -}}
{{- $store := .root.Values.store }}
{{- with $store.ca.secretName }}
- name: store-ca
  {{- include "histgen.secretSource" (dict "secret" . "items" (dict "ca.crt" $store.ca.key)) | nindent 2 }}
{{- end }}
{{- with $store.claim }}
- name: store
  persistentVolumeClaim:
    claimName: {{ . }}
{{- end }}
{{- end }}

{{- define "histgen.storeMounts" -}}
{{- $store := .root.Values.store }}
{{- if $store.ca.secretName }}
- name: store-ca
  mountPath: /etc/histgen/store
  readOnly: true
{{- end }}
{{- if $store.claim }}
- name: store
  mountPath: {{ $store.url | trimPrefix "file:" }}
{{- end }}
{{- end }}

{{/* (root): the init container that copies the model, its digests checked, to /model. */}}
{{- define "histgen.modelSync" -}}
- name: model
  image: {{ include "histgen.image" (dict "root" .root "image" .root.Values.image) }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command: [histgen, model, sync, {{ .root.Values.model.source | quote }}, /model/current{{ with .root.Values.model.sha256 }}, --digest, {{ . | quote }}{{ end }}]
  env:
    {{- include "histgen.storeSettings" . | nindent 4 }}
    {{- include "histgen.storeEnvironment" . | trim | nindent 4 }}
    - name: HOME
      value: /tmp
  resources:
    {{- include "histgen.resources" (dict "gib" (add .root.Values.model.gib 1) "resources" (dict "requests" (dict "cpu" "100m" "memory" "256Mi") "limits" (dict "cpu" "1" "memory" "1Gi"))) | nindent 4 }}
  securityContext:
    {{- include "histgen.containerSecurity" . | nindent 4 }}
  volumeMounts:
    - name: model
      mountPath: /model
    - name: tmp
      mountPath: /tmp
    {{- include "histgen.storeMounts" . | trim | nindent 4 }}
    {{- include "histgen.modelMounts" . | trim | nindent 4 }}
{{- end }}

{{/* (root): where a model in a folder lies. */}}
{{- define "histgen.modelVolumes" -}}
{{- with .root.Values.model.claim }}
- name: model-source
  persistentVolumeClaim:
    claimName: {{ . }}
    readOnly: true
{{- end }}
{{- end }}

{{- define "histgen.modelMounts" -}}
{{- if .root.Values.model.claim }}
- name: model-source
  mountPath: {{ .root.Values.model.source | trimPrefix "file:" }}
  readOnly: true
{{- end }}
{{- end }}

{{/* (root): the store's settings, for the commands that run beside the services. */}}
{{- define "histgen.storeSettings" -}}
- name: HISTGEN_STORE
  value: {{ .root.Values.store.url | quote }}
{{- with .root.Values.store.endpoint }}
- name: HISTGEN_STORE_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- with .root.Values.store.region }}
- name: HISTGEN_STORE_REGION
  value: {{ . | quote }}
{{- end }}
{{- end }}
