"""`histgen supervise-models`: keeps the models of a Triton answering that `histgen up` did not start."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from histgen_lib.inference import Supervisor
    from histgen_lib.runtime.stopping import Stop

NAME = "supervisor"
_CALM_S = 20.0
"""How often to ask models that answer: from outside their machine nobody sees a process end."""
_LOOK_S = 1.0


def supervise_models(
    url: Annotated[str, typer.Argument(metavar="URL", help="triton://host:port of its gRPC endpoint.")],
    *,
    secret: Annotated[
        Path | None, typer.Option(help="File with the secret of a server that restricts its protocols.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model to supervise; repeatable. All of them if not given."),
    ] = None,
    calm: Annotated[
        float, typer.Option(min=_LOOK_S, help="Seconds between two requests to models that answer.")
    ] = _CALM_S,
    metrics_host: Annotated[str, typer.Option(help="Address on which to serve /metrics.")] = "127.0.0.1",
    metrics_port: Annotated[int, typer.Option(min=0, max=65535, help="Port for that; 0: any free one.")] = 0,
) -> None:
    """Send each model of a Triton server a small request now and then; reload those that do not answer.

    Triton calls a model ready whose process was killed, and never restarts it. Run this beside a server that
    histgen up does not start, for example as a sidecar in its pod; the server needs
    --model-control-mode=explicit. /metrics shows histgen_inference_canary_up for each model. It runs until
    SIGTERM or Ctrl-C.

    For example:

      histgen supervise-models triton://127.0.0.1:8001 --secret /run/secrets/triton --metrics-port 9102
    """
    from histgen_lib.inference import Supervisor, models_of
    from histgen_lib.runtime.stopping import Stop, Stopped, stopped_by_signals
    from histgen_lib.secret import given_secret
    from histgen_lib.stack.monitoring import metrics_page
    from histgen_lib.telemetry import configure_logging, get_logger

    configure_logging(NAME)
    held = given_secret(secret) if secret else None
    with stopped_by_signals(Stop()) as stop, metrics_page(metrics_host, metrics_port) as page:
        get_logger().info("The supervisor starts.", url=page)
        try:
            names = model or _wait_for(lambda: models_of(url, held), stop)
        except Stopped:
            return
        _supervise(Supervisor(url, names, secret=held, calm_s=calm), stop)


def _wait_for(ask: Callable[[], list[str]], stop: Stop) -> list[str]:
    """Ask until the server answers. Raises Stopped, and the server's permanent errors."""
    from histgen_lib.errors import TransientError
    from histgen_lib.runtime.pulse import Backoff
    from histgen_lib.telemetry import get_logger

    def outage(error: TransientError, delay_s: float) -> None:
        get_logger().warning("The model server is not available; trying again.", exc_info=error)
        stop.wait(delay_s)
        stop.check()

    return Backoff().retry(ask, outage)


def _supervise(supervisor: Supervisor, stop: Stop) -> None:
    supervisor.start()
    while not stop.wait(_LOOK_S):
        pass
    supervisor.stop()
