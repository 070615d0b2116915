"""The numbers of a KEDA ScaledObject, read from its manifest.

Settings that are not modelled here are refused, so that no test passes without them. After KEDA's
documentation of 2026 (keda.sh/docs, "ScaledObject specification") and Kubernetes' defaults for an HPA.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from histgen_lib.capacity.hpa import DOWN, UP, Policy, Rules
from histgen_lib.capacity.triggers import KafkaRule, PrometheusRule

_TEXT = {"true": True, "false": False}
_KAFKA = {
    "lagThreshold": ("lag_threshold", int),
    "activationLagThreshold": ("activation_lag_threshold", int),
    "offsetResetPolicy": ("offset_reset_policy", str),
    "allowIdleConsumers": ("allow_idle_consumers", _TEXT.__getitem__),
    "limitToPartitionsWithLag": ("limit_to_partitions_with_lag", _TEXT.__getitem__),
    "excludePersistentLag": ("exclude_persistent_lag", _TEXT.__getitem__),
    "scaleToZeroOnInvalidOffset": ("scale_to_zero_on_invalid_offset", _TEXT.__getitem__),
}
_PROMETHEUS = {
    "threshold": ("threshold", float),
    "activationThreshold": ("activation_threshold", float),
    "ignoreNullValues": ("ignore_null_values", _TEXT.__getitem__),
}
_KINDS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "kafka": (KafkaRule, _KAFKA),
    "prometheus": (PrometheusRule, _PROMETHEUS),
}
_WHERE = {"bootstrapServers", "consumerGroup", "topic", "version", "tls", "sasl"}
_WHERE |= {"serverAddress", "query", "namespace", "authModes", "unsafeSsl", "timeout"}
"""Metadata that says where to look, not what follows from it."""


@dataclass(frozen=True)
class Fallback:
    """What holds once the metric could not be read more than `failures` times in a row."""

    failures: int
    replicas: int
    behavior: Literal["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"] = (
        "static"
    )

    def count(self, current: int) -> int:
        """Return how many replicas there should be."""
        return {
            "static": self.replicas,
            "currentReplicas": current,
            "currentReplicasIfHigher": max(current, self.replicas),
            "currentReplicasIfLower": min(current, self.replicas),
        }[self.behavior]


@dataclass(frozen=True)
class Scaling:
    """A ScaledObject's numbers, with KEDA's defaults; times in seconds. `least`, `most`: replicas."""

    rule: KafkaRule | PrometheusRule
    least: int = 0
    most: int = 100
    polling_s: float = 30.0
    cooldown_s: float = 300.0
    initial_cooldown_s: float = 0.0
    fallback: Fallback | None = None
    up: Rules = UP
    down: Rules = DOWN


def scaling_of(manifest: Mapping[str, Any]) -> Scaling:
    """Read a ScaledObject. Raises ValueError if it has a setting that is not modelled here."""
    numbers = {
        "minReplicaCount": "least",
        "maxReplicaCount": "most",
        "pollingInterval": "polling_s",
        "cooldownPeriod": "cooldown_s",
        "initialCooldownPeriod": "initial_cooldown_s",
    }
    spec = manifest["spec"]
    _know(spec, {*numbers, "scaleTargetRef", "triggers", "fallback", "advanced"})
    if len(spec["triggers"]) != 1:
        raise ValueError("only one trigger is modelled")
    advanced = spec.get("advanced", {})
    _know(advanced, {"horizontalPodAutoscalerConfig", "restoreToOriginalReplicaCount"})
    config = advanced.get("horizontalPodAutoscalerConfig", {})
    _know(config, {"behavior", "name"})
    behavior = config.get("behavior", {})
    _know(behavior, {"scaleUp", "scaleDown"})
    return Scaling(
        _rule(spec["triggers"][0]),
        fallback=_fallback(spec["fallback"]) if "fallback" in spec else None,
        up=_rules(behavior.get("scaleUp", {}), UP),
        down=_rules(behavior.get("scaleDown", {}), DOWN),
        **{ours: spec[theirs] for theirs, ours in numbers.items() if theirs in spec},
    )


def _rule(trigger: Mapping[str, Any]) -> KafkaRule | PrometheusRule:
    _know(trigger, {"type", "name", "metadata", "authenticationRef", "metricType"})
    if trigger.get("metricType", "AverageValue") != "AverageValue":
        raise ValueError("only the metric type AverageValue is modelled")
    make, fields = _KINDS[trigger["type"]]
    metadata = trigger["metadata"]
    _know(metadata, {*fields, *_WHERE})
    wrong = [name for name, value in metadata.items() if not isinstance(value, str)]
    if wrong:
        raise ValueError(f"KEDA takes only texts as metadata: {', '.join(wrong)}")
    found = {name: fields[name] for name in metadata if name in fields}
    rule: KafkaRule | PrometheusRule = make(
        **{ours: read(metadata[name]) for name, (ours, read) in found.items()}
    )
    return rule


def _fallback(fallback: Mapping[str, Any]) -> Fallback:
    _know(fallback, {"failureThreshold", "replicas", "behavior"})
    return Fallback(fallback["failureThreshold"], fallback["replicas"], fallback.get("behavior", "static"))


def _rules(rules: Mapping[str, Any], default: Rules) -> Rules:
    _know(rules, {"stabilizationWindowSeconds", "selectPolicy", "policies"})
    policies = tuple(
        Policy(policy["type"], policy["value"], policy["periodSeconds"])
        for policy in rules.get("policies", ())
    )
    return Rules(
        rules.get("stabilizationWindowSeconds", default.window_s),
        policies or default.policies,
        rules.get("selectPolicy", default.select),
    )


def _know(found: Collection[str], known: Collection[str]) -> None:
    unknown = sorted(set(found) - set(known))
    if unknown:
        raise ValueError(f"not modelled: {', '.join(unknown)}")
