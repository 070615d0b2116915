"""Wrong values are refused before anything is in the cluster, in words that say what to change."""

from __future__ import annotations

from typing import Any

import pytest
from chart_rendering import ENGINES, RefusedError, merged, render, set_at, values_of

FORMS: list[tuple[str, object, str]] = [
    ("triton.replica", 2, "additional properties 'replica' not allowed"),
    ("services.tiler.replikas", 2, "additional properties 'replikas' not allowed"),
    ("kafka.securityProtocol", "TLS", "value must be one of 'PLAINTEXT', 'SSL'"),
    ("kafka.bootstrapServers", "kafka://a:9092", "'kafka://a:9092' does not match pattern"),
    ("kafka.partitions", 0.5, "got number, want integer"),
    ("store.url", "minio/lab", "'minio/lab' does not match pattern"),
    ("inference.mode", "cpu", "value must be one of 'triton', 'external', 'onnx'"),
    ("inference.secret.secretName", "Histgen_Triton", "does not match pattern"),
    ("auth.oidc.issuer", "http://idp", "does not match pattern"),
    ("auth.open", ["status"], "value must be one of 'probes', 'metrics'"),
    ("image.digest", "sha256:1", "does not match pattern"),
    ("autoscaling.excludePersistentLag", True, "value must be false"),
    ("autoscaling.fallback.behavior", "hold", "value must be one of 'static'"),
    ("services.tiler.maxReplicas", 0, "minimum: got 0, want 1"),
    ("services.tiler.uploadSeconds", 5, "minimum: got 5, want 30"),
    ("services.tiler.resources", {"requests": {"cpu": 1}}, "missing property 'limits'"),
    ("triton.gpu.resource", "gpu", "'gpu' does not match pattern"),
    ("triton.target", "onnx", "value must be one of 'tensorrt', 'onnxruntime', 'local'"),
    ("retention.days", {"drafts": 30}, "additional properties 'drafts' not allowed"),
    ("retention.schedule", "daily", "'daily' does not match pattern"),
    ("slides.claims", [{"claim": "scans", "mountPath": "/scans:ro"}], "'/scans:ro' does not match pattern"),
    ("networkPolicy.dns.ports", [], "minItems: got 0, want 1"),
    ("host", "127.0.0.1", "value must be one of '0.0.0.0', '::'"),
]
"""Values of a wrong form, and words of what values.schema.json says."""

CONTRADICTIONS: list[tuple[str, object, str]] = [
    ("kafka.bootstrapServers", "", "kafka.bootstrapServers is missing: state the brokers"),
    (
        "kafka.login.secretName",
        "",
        "kafka.login.secretName is missing: kafka.securityProtocol asks for a login",
    ),
    ("image.tag", "latest", "image.tag is latest: nobody could say which version runs"),
    (
        "kafka.client.sasl_plain_password",
        "x",
        "kafka.client.sasl_plain_password would be readable in manifests",
    ),
    ("kafka.saslMechanism", "", "kafka.saslMechanism is missing"),
    ("kafka.securityProtocol", "SSL", "kafka.login is given, but kafka.securityProtocol is not SASL_SSL"),
    ("kafka.securityProtocol", "SASL_PLAINTEXT", "kafka.ca and kafka.certificate are given"),
    ("kafka.partitions", 20, "kafka.partitions is 20, but up to 24 workers of the tiler would share them"),
    ("services.tiler.minReplicas", 30, "maxReplicas of the tiler is less than its minReplicas"),
    (
        "services.archivist",
        {},
        "services.archivist: there is no such service. There are: gateway, tiler, reporter",
    ),
    (
        "services.tiler",
        {"maxSurge": "0%", "maxUnavailable": 0},
        "maxSurge and maxUnavailable of the tiler are both 0: a roll-out could exchange no pod",
    ),
    ("triton.maxUnavailable", 0, "maxSurge and maxUnavailable of triton are both 0"),
    ("store.url", "", "store.url is missing"),
    ("store.url", "file:/store", "store.claim is missing"),
    ("store.claim", "drafts", "store.claim is for a store in a folder"),
    ("slides", {"roots": [], "watch": ""}, "slides.roots is missing: without it no slide can be taken"),
    ("model.source", "file:/models/a", "a model in a folder (file:) needs a claim"),
    ("auth", {"token": {"secretName": ""}, "oidc": {"issuer": ""}}, "auth.token.secretName is missing"),
    ("auth.oidc.audience", "", "auth.oidc.audience is missing"),
    ("auth.open", ["metrics"], "auth.open must have probes: the kubelet bears no token"),
    (
        "tls",
        {"secretName": "web", "elsewhere": True},
        "either the services encrypt (secretName) or somebody else",
    ),
    ("inference.mode", "external", "inference.url is missing"),
    ("inference.url", "triton://gpu:8001", "inference.url is given, but inference.mode is not external"),
    ("inference.secret.secretName", "", "inference.secret.secretName is missing"),
    ("ingress.host", "", "ingress.host is missing"),
    ("ingress.tlsSecretName", "", "ingress.tlsSecretName is missing: tokens would be readable on the way"),
    ("triton.gpu.count", 0, "triton.target is tensorrt, but triton.gpu.count is 0"),
    ("triton.autoscaling.prometheus", "", "triton.autoscaling.prometheus is missing"),
    ("triton.autoscaling.maxReplicas", 1, "triton.autoscaling.maxReplicas is less than its minReplicas"),
    ("triton.engines.claim.accessMode", "ReadWriteOnce", "triton.engines.claim.accessMode is ReadWriteOnce"),
    ("triton.engines.claim.existing", "engines", "either create one or name an existing one"),
    ("strimzi.cluster", "", "strimzi.cluster is missing"),
    ("kafka.partitions", 0, "kafka.partitions is missing: Strimzi's topics would get more"),
    ("kafka.saslMechanism", "PLAIN", "kafka.saslMechanism is PLAIN, but users of Strimzi log in by SCRAM"),
    ("monitoring.dashboards.labels.grafana_dashboard", None, "monitoring.dashboards.labels is empty"),
    (
        "slides.claims",
        [{"claim": "scans", "mountPath": "/scans"}, {"claim": "scans", "mountPath": "/more"}],
        "slides.claims names scans twice: mount it once",
    ),
    (
        "slides.claims",
        [{"claim": "scans", "mountPath": "/scans"}, {"claim": "archive", "mountPath": "/scans/"}],
        "slides.claims: at /scans there is another volume already",
    ),
    *(
        (
            "slides.claims",
            [{"claim": "scans", "mountPath": path}],
            f"{path} cannot be the folder of a volume: the pods' own files are there",
        )
        for path in ("/tmp", "/var", "/etc/histgen/token", "/model")
    ),
    ("model", {"source": "file:/models", "claim": "models"}, "/models cannot be the folder of a volume"),
    ("strimzi.user", "histgen-kafka", "strimzi.user and kafka.login.secretName are the same"),
    (
        "settings.slide_byte",
        1,
        "settings.slide_byte: the gateway has no such setting. It has: bus_session_s, ",
    ),
    ("settings.beam_size", 3, "settings.beam_size: the gateway has no such setting"),
    ("services.tiler.settings.beam_size", 3, "settings.beam_size: the tiler has no such setting"),
    ("settings.port", 80, "settings.port: the chart sets HISTGEN_PORT itself; use nothing: it is fixed"),
    ("settings.roots", ["/scans"], "settings.roots: the chart sets HISTGEN_ROOTS itself; use slides.roots"),
    (
        "settings.log_level",
        "verbose",
        "settings.log_level of the gateway must be one of debug, info, warning, error",
    ),
    ("settings.max_attempts", 0, "settings.max_attempts of the gateway must be at least 1"),
    ("settings.frozen_s", "never", "settings.frozen_s of the gateway must be a number"),
    ("settings.http_connections", 9.5, "settings.http_connections of the gateway must be a whole number"),
    ("settings.http_head_s", 4000, "settings.http_head_s of the gateway must be at most 3600"),
    ("services.tiler.settings.deadline_s", 0, "settings.deadline_s of the tiler must be more than 0"),
    (
        "services.tiler.settings.grace_s",
        60,
        "settings.grace_s of the tiler must be at least its deadline_s (1800)",
    ),
    ("services.tiler.scratchGib", 16, "scratchGib of the tiler must be at least 17"),
]
"""Values that contradict each other or the software, laid over the hospital's, and what the templates say."""


def wrong(path: str, value: object) -> dict[str, Any]:
    return merged(values_of("hospital"), set_at(path, value))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("path", "value", "words"), FORMS, ids=[path for path, _, _ in FORMS])
def test_a_value_of_a_wrong_form_is_refused_by_its_name(engine, path, value, words):
    if engine == "helm3" and FORMS.index((path, value, words)) % 6:
        return  # a process each: every sixth shows that both read the schema alike
    with pytest.raises(RefusedError) as caught:
        ENGINES[engine](wrong(path, value))
    assert words in str(caught.value)
    where = "/" + "/".join(path.split(".")[:-1])
    assert where.rstrip("/") in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "words"), CONTRADICTIONS, ids=[words[:40] for *_, words in CONTRADICTIONS]
)
def test_values_that_contradict_each_other_are_refused_with_what_to_do(path, value, words):
    with pytest.raises(RefusedError) as caught:
        render(wrong(path, value))
    assert words in str(caught.value)


def test_a_store_and_slides_or_a_model_are_not_in_one_folder():
    lab = values_of("small-lab")
    scans = [{"claim": "scans", "mountPath": "/store"}]
    with pytest.raises(RefusedError, match="at /store there is another volume already"):
        render(merged(lab, {"slides": {"claims": scans}}))
    with pytest.raises(RefusedError, match=r"model\.source and store\.url are the same folder"):
        render(merged(lab, {"model": {"source": "file:/store", "claim": "histgen-store"}}))
    assert render(merged(lab, {"model": {"source": "file:/store/models/a", "claim": "histgen-store"}}))


@pytest.mark.parametrize("name", ["1lab", "lab.1"])
def test_a_release_whose_name_cannot_be_that_of_a_service_is_refused(name):
    with pytest.raises(RefusedError, match="it must start with a letter and have only letters, digits and"):
        render(values_of("small-lab"), name)


def test_the_real_helm_says_the_same_words():
    for engine in ENGINES.values():
        with pytest.raises(RefusedError, match=r"kafka\.partitions is 20, but up to 24 workers"):
            engine(wrong("kafka.partitions", 20))


def test_without_values_the_chart_asks_for_the_first_that_is_missing():
    with pytest.raises(RefusedError, match=r"kafka\.bootstrapServers is missing"):
        render({})
