"""What the chart renders to is valid, the same with both engines, and follows the table of services."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import helm_python
import jsonschema
import kubernetes_validate
import pytest
import yaml
from chart_rendering import (
    CHART,
    ENGINES,
    EXAMPLES,
    HELM,
    NEWEST,
    OLDEST,
    ROOT,
    Manifest,
    containers,
    environment,
    merged,
    notes,
    of_kind,
    one,
    pods,
    render,
    values_of,
)
from kubernetes_validate import utils

from histgen_lib import __version__
from histgen_lib.events import REPORT_SIGNED, ReportDrafted
from services.table import SERVICES, Service

OTHERS = ("keda.sh", "monitoring.coreos.com", "kafka.strimzi.io")
"""API groups of operators."""


def group_of(manifest: Manifest) -> str:
    return manifest["apiVersion"].rpartition("/")[0]


def names(manifests: list[Manifest]) -> list[tuple[str, str]]:
    return [(each["kind"], each["metadata"]["name"]) for each in manifests]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chart_services", ROOT / "deploy" / "chart_services.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_lint_finds_nothing(example):
    report = helm_python.lint(CHART, values_of(example), strict=True, kube_version=f"v{OLDEST}")
    assert [found for found in report["messages"] if found["severity"] > 1] == []
    assert report["errors"] == []


@pytest.mark.skipif(
    not HELM.is_file(), reason="no Go to build helm 3 with: Helm 4's engine lints and renders"
)
def test_the_real_helm_lints_all_examples():
    for path in EXAMPLES:
        command = [str(HELM), "lint", str(CHART), "--strict", "--quiet", "--values", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif("helm3" not in ENGINES, reason="no Go to build helm 3 with: there is one engine")
def test_both_engines_render_the_same(example, manifests):
    def by_name(found: list[Manifest]) -> dict[str, Manifest]:
        return {json.dumps([*name]): each for name, each in zip(names(found), found, strict=True)}

    assert by_name(ENGINES["helm3"](values_of(example))) == by_name(manifests)


def test_every_name_is_taken_once(manifests):
    assert [name for name, count in Counter(names(manifests)).items() if count > 1] == []


@pytest.fixture(scope="module")
def kubernetes() -> Iterator[ModuleType]:
    """kubernetes-validate, which otherwise reads a megabyte of definitions for every manifest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "schema_contents", cache(utils.schema_contents))
        yield kubernetes_validate


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_manifest_is_valid_for_the_oldest_and_the_newest_kubernetes(kubernetes, manifests, version):
    ours = [each for each in manifests if group_of(each) not in OTHERS]
    assert len(ours) > 10
    for manifest in ours:
        kubernetes.validate(manifest, version, strict=True)


def test_a_field_that_kubernetes_does_not_know_is_not_valid(kubernetes, manifests):
    broken = deepcopy(one(manifests, "Deployment", "lab-histgen-tiler"))
    broken["spec"]["template"]["spec"]["containers"][0]["readyProbe"] = {}
    with pytest.raises(kubernetes.ValidationError, match="readyProbe"):
        kubernetes.validate(broken, NEWEST, strict=True)


@pytest.mark.skipif(
    not HELM.is_file(), reason="no Go to build helm 3 with, and Helm 4's engine takes no version"
)
def test_an_older_kubernetes_than_is_tested_is_refused():
    def rendered(version: str) -> subprocess.CompletedProcess[str]:
        command = [str(HELM), "template", "lab", str(CHART), "--kube-version", version, "--values"]
        command.append(str(CHART / "examples" / "small-lab.yaml"))
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert "This is Kubernetes v1.28.9; the chart needs 1.29 or later." in rendered("1.28.9").stderr
    first, *others = (rendered(version) for version in (OLDEST, NEWEST, "v1.29.3-gke.100"))
    assert first.stdout
    assert all(other.stdout == first.stdout for other in others)
    assert kubernetes_validate.latest_version().startswith(NEWEST)


def test_the_resources_of_operators_are_valid(shared_dir: Path, manifests, example):
    foreign = [each for each in manifests if group_of(each) in OTHERS]
    assert bool(foreign) == (example != "small-lab")
    for manifest in foreign:
        version = manifest["apiVersion"].rpartition("/")[2]
        path = shared_dir / "k8s" / group_of(manifest) / f"{manifest['kind'].lower()}_{version}.json"
        jsonschema.Draft7Validator(json.loads(path.read_text())).validate(manifest)


def test_what_the_chart_knows_of_services_is_generated_from_their_table(generator):
    assert (CHART / "files" / "services.json").read_text() == generator.text(SERVICES), "run `make chart`"


def test_a_new_row_in_the_table_is_a_new_deployment_without_an_edit(generator, tmp_path):
    @dataclass(frozen=True)
    class ReportSigned(ReportDrafted):
        type = REPORT_SIGNED

    rows = (
        *SERVICES,
        Service("archivist", "worker", (ReportSigned,), (), "services.reporter.app:ReporterSettings", ":"),
        Service("review", "web", (), (), "services.settings:ServiceSettings", ":"),
    )
    chart = Path(shutil.copytree(CHART, tmp_path / "histgen"))
    (chart / "files" / "services.json").write_text(generator.text(rows))
    found = render(values_of("hospital"), chart=chart)

    assert "Deployment/lab-histgen-archivist" in pods(found)
    scaled = one(found, "ScaledObject", "lab-histgen-archivist")
    assert scaled["spec"]["triggers"][0]["metadata"]["consumerGroup"] == "histgen-archivist"
    assert "report.signed" in {topic["spec"]["topicName"] for topic in of_kind(found, "KafkaTopic")}
    assert one(found, "Service", "lab-histgen-review")
    assert one(found, "PodDisruptionBudget", "lab-histgen-review")
    asked = one(found, "Pod", "lab-histgen-test")["spec"]["containers"][0]["command"]
    assert asked[-1] == "https://lab-histgen-review.histgen.svc:8080"


def test_rules_and_dashboards_are_taken_as_they_are(tmp_path):
    """Prometheus's own templates have Helm's brackets."""
    chart = Path(shutil.copytree(CHART, tmp_path / "histgen"))
    alert = {
        "alert": "Toy",
        "expr": "up == 0",
        "annotations": {"summary": "{{ $labels.job }} is down: {{ printf `%.1f` $value }}"},
    }
    rules = {"groups": [{"name": "toy", "rules": [alert]}]}
    for folder in ("rules", "dashboards"):
        shutil.rmtree(chart / "files" / folder, ignore_errors=True)
        (chart / "files" / folder).mkdir()
    (chart / "files" / "rules" / "toy_rules.yml").write_text("# why\n" + yaml.dump(rules))
    board = json.dumps({"title": "Toy", "panels": [{"legendFormat": "{{worker}}"}]}, indent=2)
    (chart / "files" / "dashboards" / "toy.json").write_text(board)
    found = render(values_of("hospital"), chart=chart)

    assert one(found, "PrometheusRule", "lab-histgen-rules-toy-rules")["spec"] == rules
    (config,) = of_kind(found, "ConfigMap")
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(config["data"]["toy.json"]) == json.loads(board)


def test_every_rule_and_dashboard_that_is_shipped_is_rendered(manifests, example):
    wanted = 0 if example == "small-lab" else len(list((CHART / "files" / "rules").glob("*.yml")))
    assert len(of_kind(manifests, "PrometheusRule")) == wanted
    boards = 0 if example == "small-lab" else len(list((CHART / "files" / "dashboards").glob("*.json")))
    assert len(of_kind(manifests, "ConfigMap")) == boards
    assert all(len(json.dumps(each)) < 1 << 20 for each in of_kind(manifests, "ConfigMap"))


def test_names_of_a_long_release_fit_and_stay_apart():
    """53 characters is the longest name of a release; what it makes may have 63, a CronJob 52."""
    long = "a" * 52
    one_name, other = (
        names(render(values_of("hospital"), long + "x")),
        names(render(values_of("hospital"), long + "y")),
    )
    for kind, name in one_name:
        assert len(name) <= (52 if kind == "CronJob" else 63), (kind, name)
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", name), name
    assert len(set(one_name)) == len(one_name)
    own = {name for name in one_name if name != ("KafkaUser", "histgen")}
    assert own & set(other) == set()


def test_every_image_states_its_version_or_its_digest(manifests):
    for pod in pods(manifests).values():
        for container in containers(pod):
            assert re.search(rf"(@sha256:[0-9a-f]{{64}}|:{re.escape(__version__)})\Z", container["image"]), (
                container["image"]
            )


def test_the_version_of_the_software_is_the_packages():
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__


def test_values_are_described_by_their_schema():
    """What one of values.yaml and the schema has and the other has not would be refused or lost."""
    schema = json.loads((CHART / "values.schema.json").read_text())

    def keys(part: dict, values: dict, path: str = "") -> set[str]:
        part = schema["definitions"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part
        if part.get("additionalProperties") is not False:
            return {path}
        stated = {name for name in part["properties"] if name != "global"}
        assert stated == set(values), path
        return {
            key
            for name, value in values.items()
            if isinstance(value, dict)
            for key in keys(part["properties"][name], value, f"{path}.{name}")
        }

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert keys(schema, values)


def test_the_notes_say_what_to_do_next():
    found = notes(values_of("small-lab"))
    for said in ("helm test lab -n histgen", "exec deploy/lab-histgen-gateway", "/scans", "tls."):
        assert said in found
    assert "retention" not in found  # it is on


def test_the_notes_say_that_tritons_autoscaler_needs_triton_scraped():
    for scraped, words in ((True, "here by a PodMonitor"), (False, "nothing here makes it do so")):
        values = merged(values_of("hospital"), {"monitoring": {"podMonitors": scraped}})
        assert words in notes(values)


def test_nothing_of_a_secret_is_written_into_a_manifest(manifests):
    """What is secret comes by reference alone: the chart makes no Secret, and no password is a value."""
    assert of_kind(manifests, "Secret") == []
    for pod in pods(manifests).values():
        for container in containers(pod):
            stated = environment(container)
            assert not {name for name in stated if re.search("PASSWORD|SECRET_ACCESS|ACCESS_KEY", name)}
            assert "password" not in stated.get("HISTGEN_KAFKA", "")
