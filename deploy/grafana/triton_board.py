"""Triton: whether models answer, whether requests wait, how they are batched, and what the GPU does."""

from __future__ import annotations

from parts import HERE, MODEL, TRITON, Limits, Query, Row, board, chart


def _rate(metric: str, span: str = "$__rate_interval") -> str:
    return f"sum by (model) (rate({metric}{{{MODEL}}}[{span}]))"


def _each(part: str, whole: str, scale: str = "") -> str:
    return f"{_rate(part, '$interval')} / ({_rate(whole, '$interval')} > 0){scale}"


_REQUESTS = Row(
    "Do models answer?",
    [
        chart(
            "Requests",
            "Requests per second that succeeded, by model.",
            "reqps",
            Query(_rate("nv_inference_request_success"), "{{model}}"),
        ),
        chart(
            "Failures",
            "Requests per second that failed, by model.",
            "reqps",
            Query(_rate("nv_inference_request_failure"), "{{model}}"),
            limits=Limits(0.01, 1),
            runbook="HistgenCanaryFailing",
        ),
        chart(
            "Canary",
            "1 while a model answers small requests or is busy.",
            "short",
            Query(f"min by (model) (histgen_inference_canary_up{{{HERE}}})", "{{model}}"),
            limits=Limits(1, 0.75, falling=True),
            runbook="HistgenCanaryFailing",
        ),
        chart(
            "Models in use",
            "What workers compute with: one line a network, with its digest and engine in the legend.",
            "short",
            Query(
                f"count by (worker, network, name, engine, digest) (histgen_model_info{{{HERE}}})",
                "{{worker}}: {{network}} {{name}} on {{engine}}, {{digest}}",
            ),
        ),
    ],
)
_QUEUE = Row(
    "Do requests wait?",
    [
        chart(
            "Queue share",
            "Share of their time that requests spend in Triton's queue.",
            "percentunit",
            Query(_each("nv_inference_queue_duration_us", "nv_inference_request_duration_us"), "{{model}}"),
            limits=Limits(0.25, 0.5),
            runbook="HistgenQueueShare",
        ),
        chart(
            "Pending requests",
            "Requests that wait to be executed; what Triton is scaled by.",
            "short",
            Query(f"sum by (model) (nv_inference_pending_request_count{{{MODEL}}})", "{{model}}"),
            limits=Limits(8, 32),
            runbook="HistgenQueueShare",
        ),
        chart(
            "Latency",
            "Mean seconds of a request, and of it in the queue and in the model.",
            "s",
            *(
                Query(
                    _each(f"nv_inference_{name}_duration_us", "nv_inference_request_success", " / 1e6"),
                    f"{{{{model}}}} {label}",
                )
                for name, label in (("request", "whole"), ("queue", "queue"), ("compute_infer", "model"))
            ),
        ),
        chart(
            "Batch size",
            "Inferences an execution: how well single requests are put together.",
            "short",
            Query(_each("nv_inference_count", "nv_inference_exec_count"), "{{model}}"),
        ),
    ],
)
_GPU = Row(
    "What does the GPU do?",
    [
        chart(
            "GPU utilisation",
            "Share of the time in which the GPU computed.",
            "percentunit",
            Query(
                f"avg by (instance, gpu_uuid) (nv_gpu_utilization{{{TRITON}}})", "{{instance}} {{gpu_uuid}}"
            ),
        ),
        chart(
            "GPU memory",
            "Memory of the GPU that is in use, and what there is.",
            "bytes",
            Query(
                f"max by (instance, gpu_uuid) (nv_gpu_memory_used_bytes{{{TRITON}}})",
                "used, {{instance}} {{gpu_uuid}}",
            ),
            Query(
                f"max by (instance, gpu_uuid) (nv_gpu_memory_total_bytes{{{TRITON}}})",
                "total, {{instance}} {{gpu_uuid}}",
            ),
        ),
    ],
)

BOARD = board(
    "histgen-triton",
    "HistGen: Triton",
    "Whether models answer, whether requests wait, how they are batched, and what the GPU does.",
    [_REQUESTS, _QUEUE, _GPU],
    by="model",
)
