"""From settings to the parts of a service; the one place that knows which adapter a URL means."""

from __future__ import annotations

from histgen_lib.bus import BusSettings
from histgen_lib.inference import InferenceServer, OnnxServer
from histgen_lib.storage import StorageSettings
from services.settings import ServiceSettings


def bus_settings(settings: ServiceSettings) -> BusSettings:
    """Say which broker, and how to talk to it."""
    return BusSettings(
        url=settings.bus,
        partitions=settings.bus_partitions,
        session_s=settings.bus_session_s,
        kafka=tuple(sorted(settings.kafka.items())),
    )


def storage_settings(settings: ServiceSettings) -> StorageSettings:
    """Say which object store, and how to talk to it."""
    return StorageSettings(url=settings.store, endpoint=settings.store_endpoint, region=settings.store_region)


def open_inference(settings: ServiceSettings) -> InferenceServer:
    """Connect to what runs the models: Triton, or ONNX Runtime in this process."""
    return OnnxServer(settings.model, threads=settings.threads)
