{{/* Values that contradict each other or the software are refused here, with what to do; values of a wrong form by values.schema.json. */}}

{{- define "histgen.refusals" -}}
{{- $values := .Values }}
{{- $table := include "histgen.table" . | fromJson }}
{{- /* Not kubeVersion of Chart.yaml: a helm that was built with `go install` says v1.20.0 while it asks no cluster. */}}
{{- $version := .Capabilities.KubeVersion.Version }}
{{- if and (semverCompare "<1.29.0-0" $version) (ne $version "v1.20.0") }}{{ fail (printf "\n\nThis is Kubernetes %s; the chart needs 1.29 or later." $version) }}{{ end }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" .Release.Name) }}{{ fail (printf "\n\nThe release is called %s: its Services would be, too, so it must start with a letter and have only letters, digits and hyphens." .Release.Name) }}{{ end }}
{{- if or (eq $values.image.tag "latest") (eq $values.triton.image.tag "latest") }}{{ fail "\n\nimage.tag is latest: nobody could say which version runs, nor go back to it. State a version or a digest." }}{{ end }}
{{- range $name, $_ := $values.kafka.client }}
{{- if regexMatch "password|token|secret" $name }}{{ fail (printf "\n\nkafka.client.%s would be readable in manifests: put it into the Secret kafka.login." $name) }}{{ end }}
{{- end }}
{{- if not $values.kafka.bootstrapServers }}{{ fail "\n\nkafka.bootstrapServers is missing: state the brokers, for example kafka-bootstrap.kafka:9093." }}{{ end }}
{{- if not $values.store.url }}{{ fail "\n\nstore.url is missing: state s3://bucket/prefix, or file:/store together with store.claim." }}{{ end }}
{{- if and (hasPrefix "file:" $values.store.url) (not $values.store.claim) }}{{ fail "\n\nstore.claim is missing: a store in a folder needs a claim that all pods can mount (ReadWriteMany)." }}{{ end }}
{{- if and (hasPrefix "s3:" $values.store.url) $values.store.claim }}{{ fail "\n\nstore.claim is for a store in a folder; store.url names a bucket." }}{{ end }}
{{- if ne (hasPrefix "file:" $values.model.source) (not (empty $values.model.claim)) }}{{ fail "\n\nmodel.source and model.claim: a model in a folder (file:) needs a claim, and only that does." }}{{ end }}
{{- if and $values.strimzi.enabled (not $values.strimzi.cluster) }}{{ fail "\n\nstrimzi.cluster is missing: the name of the Kafka resource." }}{{ end }}
{{- if and $values.strimzi.enabled $values.kafka.login.secretName (eq $values.kafka.login.secretName ($values.strimzi.user | default (include "histgen.fullname" .))) }}{{ fail "\n\nstrimzi.user and kafka.login.secretName are the same: Strimzi writes a Secret of its own under the user's name." }}{{ end }}
{{- if and $values.strimzi.enabled (eq ($values.kafka.partitions | int) 0) }}{{ fail "\n\nkafka.partitions is missing: Strimzi's topics would get more whenever maxReplicas grows, and partitions are never removed. State how many." }}{{ end }}
{{- include "histgen.mountRefusals" . }}
{{- if not (or $values.slides.roots $values.slides.watch) }}{{ fail "\n\nslides.roots is missing: without it no slide can be taken. State folders of slides.claims, or s3:// buckets." }}{{ end }}
{{- if not (or $values.auth.token.secretName $values.auth.tokens.secretName $values.auth.oidc.issuer) }}{{ fail "\n\nauth.token.secretName is missing: name a Secret with the gateway's token (or auth.tokens, or auth.oidc)." }}{{ end }}
{{- if and $values.auth.oidc.issuer (not $values.auth.oidc.audience) }}{{ fail "\n\nauth.oidc.audience is missing: without it, tokens for any other program would be accepted." }}{{ end }}
{{- if not (has "probes" $values.auth.open) }}{{ fail "\n\nauth.open must have probes: the kubelet bears no token, and would restart every pod." }}{{ end }}
{{- if and $values.monitoring.podMonitors (not (has "metrics" $values.auth.open)) (not $values.auth.token.secretName) }}{{ fail "\n\nauth.token.secretName is missing: metrics are not in auth.open, so Prometheus needs the token." }}{{ end }}
{{- if and $values.tls.secretName $values.tls.elsewhere }}{{ fail "\n\ntls: either the services encrypt (secretName) or somebody else does (elsewhere)." }}{{ end }}
{{- $sasl := hasPrefix "SASL" $values.kafka.securityProtocol }}
{{- if and $sasl (not $values.kafka.login.secretName) }}{{ fail "\n\nkafka.login.secretName is missing: kafka.securityProtocol asks for a login." }}{{ end }}
{{- if and $sasl (not $values.kafka.saslMechanism) }}{{ fail "\n\nkafka.saslMechanism is missing: kafka.securityProtocol asks for a login." }}{{ end }}
{{- if and $values.strimzi.enabled $sasl (ne $values.kafka.saslMechanism "SCRAM-SHA-512") }}{{ fail (printf "\n\nkafka.saslMechanism is %s, but users of Strimzi log in by SCRAM-SHA-512." $values.kafka.saslMechanism) }}{{ end }}
{{- if and $values.kafka.login.secretName (not $sasl) }}{{ fail "\n\nkafka.login is given, but kafka.securityProtocol is not SASL_SSL or SASL_PLAINTEXT." }}{{ end }}
{{- if and (or $values.kafka.ca.secretName $values.kafka.certificate.secretName) (not (hasSuffix "SSL" $values.kafka.securityProtocol)) }}{{ fail "\n\nkafka.ca and kafka.certificate are given, but kafka.securityProtocol is not SSL or SASL_SSL." }}{{ end }}
{{- if and (eq $values.inference.mode "external") (not $values.inference.url) }}{{ fail "\n\ninference.url is missing: inference.mode is external." }}{{ end }}
{{- if and (ne $values.inference.mode "external") $values.inference.url }}{{ fail "\n\ninference.url is given, but inference.mode is not external." }}{{ end }}
{{- if and (eq $values.inference.mode "triton") (not $values.inference.secret.secretName) }}{{ fail "\n\ninference.secret.secretName is missing: whoever reaches a Triton without a secret can have it run any program." }}{{ end }}
{{- if and $values.ingress.enabled (not $values.ingress.host) }}{{ fail "\n\ningress.host is missing." }}{{ end }}
{{- if and $values.ingress.enabled (not $values.ingress.tlsSecretName) (not $values.ingress.insecure) }}{{ fail "\n\ningress.tlsSecretName is missing: tokens would be readable on the way. If TLS ends before the ingress, set ingress.insecure." }}{{ end }}
{{- if ne (hasPrefix "file:" $values.retrieval.index) (not (empty $values.retrieval.claim)) }}{{ fail "\n\nretrieval.index and retrieval.claim: an index in a folder (file:) needs a claim that all pods can mount (ReadWriteMany), and only that does." }}{{ end }}
{{- $storePlace := printf "%s/" (trimSuffix "/" $values.store.url) }}{{ $indexPlace := printf "%s/" (trimSuffix "/" $values.retrieval.index) }}
{{- if and $values.retrieval.index (or (hasPrefix $storePlace $indexPlace) (hasPrefix $indexPlace $storePlace)) }}{{ fail "\n\nretrieval.index lies in the store, or the store in it: the index needs a folder or prefix of its own." }}{{ end }}
{{- $names := list }}
{{- range $table.all }}{{ $names = append $names .name }}{{ end }}
{{- range $name, $_ := $values.services }}
{{- if not (has $name $names) }}{{ fail (printf "\n\nservices.%s: there is no such service. There are: %s." $name (join ", " $names)) }}{{ end }}
{{- end }}
{{- $partitions := include "histgen.partitions" . | int }}
{{- if and $values.monitoring.dashboards.enabled (not $values.monitoring.dashboards.labels) }}{{ fail "\n\nmonitoring.dashboards.labels is empty: Grafana's sidecar finds dashboards by a label." }}{{ end }}
{{- range $row := $table.rows }}
{{- include "histgen.exchangeRefusal" (dict "name" (printf "the %s" $row.name) "values" $row.values) }}
{{- if $row.takes }}
{{- $most := include "histgen.most" (dict "root" $ "row" $row) | int }}
{{- if gt $most $partitions }}{{ fail (printf "\n\nkafka.partitions is %d, but up to %d workers of the %s would share them: the rest would be idle. Raise kafka.partitions (first on existing topics), or leave it out." $partitions $most $row.name) }}{{ end }}
{{- if and $.Values.autoscaling.enabled (lt ($row.values.maxReplicas | int) ($row.values.minReplicas | int)) }}{{ fail (printf "\n\nmaxReplicas of the %s is less than its minReplicas." $row.name) }}{{ end }}
{{- else if and $.Values.autoscaling.enabled $row.values.cpuPercent (lt ($row.values.maxReplicas | int) ($row.values.replicas | int)) }}{{ fail (printf "\n\nmaxReplicas of the %s is less than its replicas." $row.name) }}
{{- end }}
{{- end }}
{{- $triton := $values.triton }}
{{- if eq $values.inference.mode "triton" }}
{{- include "histgen.exchangeRefusal" (dict "name" "triton" "values" $triton) }}
{{- if and $triton.autoscaling.enabled (not $triton.autoscaling.prometheus) }}{{ fail "\n\ntriton.autoscaling.prometheus is missing: the URL of the Prometheus that scrapes Triton." }}{{ end }}
{{- if and $triton.autoscaling.enabled (lt ($triton.autoscaling.maxReplicas | int) ($triton.autoscaling.minReplicas | int)) }}{{ fail "\n\ntriton.autoscaling.maxReplicas is less than its minReplicas." }}{{ end }}
{{- $most := ternary $triton.autoscaling.maxReplicas $triton.replicas $triton.autoscaling.enabled | int }}
{{- if and $triton.engines.claim.create (eq $triton.engines.claim.accessMode "ReadWriteOnce") (gt $most 1) }}{{ fail "\n\ntriton.engines.claim.accessMode is ReadWriteOnce, but there may be several Tritons: use ReadWriteMany, or no claim." }}{{ end }}
{{- if and $triton.engines.claim.create $triton.engines.claim.existing }}{{ fail "\n\ntriton.engines.claim: either create one or name an existing one." }}{{ end }}
{{- if and (eq ($triton.gpu.count | int) 0) (hasPrefix "tensorrt" $triton.target) }}{{ fail "\n\ntriton.target is tensorrt, but triton.gpu.count is 0: without a GPU, the target is local." }}{{ end }}
{{- end }}
{{- end }}

{{/* (name, values): nothing, or a refusal of a roll-out that could exchange no pod. */}}
{{- define "histgen.exchangeRefusal" -}}
{{- $most := max (.values.maxSurge | toString | trimSuffix "%" | int) (.values.maxUnavailable | toString | trimSuffix "%" | int) }}
{{- if eq $most 0 }}{{ fail (printf "\n\nmaxSurge and maxUnavailable of %s are both 0: a roll-out could exchange no pod." .name) }}{{ end }}
{{- end }}

{{/* (root): nothing, or a refusal of volumes that are in each other's way, or in that of the pods' own. */}}
{{- define "histgen.mountRefusals" -}}
{{- $values := .Values }}
{{- $own := list "/tmp" "/var/lib/histgen" "/scratch" "/model/current" "/models/model" "/models/engines" "/models/repository" "/dev/shm" "/etc/histgen" "/opt/histgen" "/usr" "/proc" "/sys" }}
{{- $store := ternary ($values.store.url | trimPrefix "file:" | clean) "" (hasPrefix "file:" $values.store.url) }}
{{- $model := ternary ($values.model.source | trimPrefix "file:" | clean) "" (hasPrefix "file:" $values.model.source) }}
{{- $claims := list }}
{{- $paths := ternary (list $store) list (ne $store "") }}
{{- range $values.slides.claims }}
{{- if has .claim $claims }}{{ fail (printf "\n\nslides.claims names %s twice: mount it once, all its folders are in it." .claim) }}{{ end }}
{{- $claims = append $claims .claim }}
{{- $path := clean .mountPath }}
{{- if has $path $paths }}{{ fail (printf "\n\nslides.claims: at %s there is another volume already. Choose another mountPath." $path) }}{{ end }}
{{- $paths = append $paths $path }}
{{- end }}
{{- if and $model (eq $model $store) }}{{ fail "\n\nmodel.source and store.url are the same folder: name a folder of its own for the model." }}{{ end }}
{{- range $path := concat $paths (ternary (list $model) list (ne $model "")) }}
{{- range $taken := $own }}
{{- if or (hasPrefix (printf "%s/" (trimSuffix "/" $path)) (printf "%s/" $taken)) (hasPrefix "/etc/histgen/" (printf "%s/" $path)) }}{{ fail (printf "\n\n%s cannot be the folder of a volume: the pods' own files are there. Choose another, such as /scans, /store, /source." $path) }}{{ end }}
{{- end }}
{{- end }}
{{- end }}
