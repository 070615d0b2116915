"""The ScaledObjects that tests scale by."""

from __future__ import annotations

from typing import Any

PARTITIONS = 12


def tiler_object(**metadata: str) -> dict[str, Any]:
    """Return the manifest for the tiler, with other metadata where given."""
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": "tiler"},
        "spec": {
            "scaleTargetRef": {"name": "tiler"},
            "minReplicaCount": 0,
            "maxReplicaCount": PARTITIONS,
            "pollingInterval": 15,
            "cooldownPeriod": 300,
            "fallback": {"failureThreshold": 3, "replicas": 1, "behavior": "currentReplicasIfHigher"},
            "triggers": [
                {
                    "type": "kafka",
                    "metadata": {
                        "bootstrapServers": "kafka:9092",
                        "topic": "slide.scanned",
                        "consumerGroup": "histgen-tiler",
                        "lagThreshold": "1",
                        "offsetResetPolicy": "earliest",
                        "limitToPartitionsWithLag": "true",
                        "excludePersistentLag": "false",
                        "scaleToZeroOnInvalidOffset": "false",
                        **metadata,
                    },
                }
            ],
            "advanced": {
                "horizontalPodAutoscalerConfig": {
                    "behavior": {
                        "scaleUp": {
                            "stabilizationWindowSeconds": 0,
                            "policies": [
                                {"type": "Percent", "value": 100, "periodSeconds": 15},
                                {"type": "Pods", "value": 4, "periodSeconds": 15},
                            ],
                        },
                        "scaleDown": {
                            "stabilizationWindowSeconds": 300,
                            "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
                        },
                    }
                }
            },
        },
    }
