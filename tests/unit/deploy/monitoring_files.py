"""The rules and dashboards as they are shipped, and the metrics that may be asked for in them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import yaml

from histgen_lib.telemetry import metrics

ROOT = Path(__file__).resolve().parents[3]
PROMTOOL = str(ROOT / ".local" / "prometheus" / "usr" / "bin" / "promtool")
FILES = ROOT / "helm" / "histgen" / "files"
RULE_FILES = sorted((FILES / "rules").glob("*.yml"))
RULES = {
    path.stem: [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]
    for path in RULE_FILES
}
ALERTS = [rule for rules in RULES.values() for rule in rules if "alert" in rule]
RECORDED = {rule["record"] for rules in RULES.values() for rule in rules if "record" in rule}
DASHBOARDS = {
    path.stem: json.loads(path.read_text()) for path in sorted((FILES / "dashboards").glob("*.json"))
}

TRITON = {
    "nv_inference_request_success", "nv_inference_request_failure", "nv_inference_queue_duration_us",
    "nv_inference_request_duration_us", "nv_inference_compute_infer_duration_us", "nv_inference_exec_count",
    "nv_inference_count", "nv_inference_pending_request_count", "nv_gpu_utilization",
    "nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes",
}  # fmt: skip
PROMETHEUS = {"up", "ALERTS"}
PROCESS = {"process_start_time_seconds", "process_resident_memory_bytes", "process_cpu_seconds_total"}

_LABELS = re.compile(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"|\b(?:by|on|without|ignoring) \([^)]*\)")
_NAME = re.compile(r"(?<![\w.])[a-zA-Z_:][\w:]*(?![\w:])(?!\s*\()")
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
_WORDS = {"and", "or", "unless", "on", "by", "offset", "bool", "group", "sum", "max", "min", "avg", "count"}


def promtool(*arguments: object) -> str:
    """Run promtool, which has to be content, and return what it says."""
    done = subprocess.run([PROMTOOL, *map(str, arguments)], capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


def metrics_in(expression: str) -> set[str]:
    """List the metrics that an expression selects."""
    bare = _LABELS.sub(" ", expression)
    return {name for name in _NAME.findall(bare) if name not in _WORDS}


def declared() -> set[str]:
    """List all series that our processes can serve, as /metrics names them."""
    found = set(PROCESS)
    for metric in metrics.ALL:
        for family in metric.describe():
            suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(
                family.type, [""]
            )
            found |= {family.name + suffix for suffix in suffixes}
    return found


def exists(name: str) -> bool:
    """Whether a metric is one of ours, a recorded one, or one of Triton's and Prometheus' that we know."""
    return name in declared() | RECORDED | TRITON | PROMETHEUS
