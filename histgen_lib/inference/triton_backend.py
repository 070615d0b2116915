"""A model in Triton's Python backend: what its model.py imports. `OnnxServer` answers for Triton.

On a CPU every request is run alone, by the same code as in process: so answers are equal, bit for bit,
whatever else is in the batch. Several bags are run side by side. On a GPU the requests that Triton hands over
together are computed together, if the model can: tokens stay equal, and the rest within a tolerance.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import select
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np

from histgen_lib.cores import cores
from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError
from histgen_lib.inference._onnx import Loader, OnnxServer
from histgen_lib.inference.wire import (
    BATCHING,
    DEVICE,
    DTYPES,
    ENGINES,
    FOLDER,
    NETWORKS,
    PRECISION,
    THREADS,
    VERSION,
    check_numpy,
    encode_error,
    joined,
    wire_names,
)
from histgen_lib.models.serving import Device, Precision, Tensors, TensorSpec

log = logging.getLogger(__name__)

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_STUCK_S, _ROUND_S = 25, 5
"""Longer than any of our steps holds the interpreter lock; and the time between two rounds of the clock."""


class TritonPythonModel:
    """One of our models in Triton's Python backend, whose protocol dictates class and method names."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the networks; a model that cannot answer is not served."""
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
        # This module exists in Triton's process only.
        self._triton = triton = import_module("triton_python_backend_utils")
        try:
            if args.get("model_instance_kind") == "GPU":
                see_only(int(args["model_instance_device_id"]), os.environ)
            self._open(args["model_name"], Path(args["model_repository"]), json.loads(args["model_config"]))
        except HistgenError as error:
            raise triton.TritonModelException(encode_error(error)) from error

    def _open(self, name: str, place: Path, config: Mapping[str, Any]) -> None:
        check_numpy(np.__version__)
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self._name = name
        self._bags = parameters[BATCHING] == "bags"
        self._version = parameters[VERSION]
        self._specs = _specs(config["input"])
        threads = int(parameters.get(THREADS) or cores())
        device, precision = parameters.get(DEVICE, "cpu"), parameters.get(PRECISION, "float32")
        self._together = device != "cpu"
        # Bags are run side by side, a core each. Tiles are spread over the cores as it is.
        self._pool = ThreadPoolExecutor(threads if self._bags else 1)
        self._server = OnnxServer(
            place / parameters.get(FOLDER, "1"),
            threads=1 if self._bags and not self._together else threads,
            device=cast(Device, device),
            precision=cast(Precision, precision),
            load=_engines(parameters) if ENGINES in parameters else None,
        )
        self._server.load(name)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request, in order; one that fails does not affect the others."""
        if self._together:
            return self._answer_together(requests)
        return list(self._pool.map(self._answer, requests))

    def finalize(self) -> None:
        """Release the threads when the model is unloaded."""
        self._pool.shutdown()

    def _answer(self, request: Any) -> Any:
        try:
            return self._answered(self._server.infer(self._name, self._tensors(request)))
        except Exception as error:  # whatever it is: the others are answered
            return self._answered(error)

    def _answer_together(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests with one computation, but for those that cannot be read."""
        read = [self._read(request) for request in requests]
        asked = [one for one in read if not isinstance(one, Exception)]
        answers = iter(self._server.infer_many(self._name, asked))
        return [self._answered(one if isinstance(one, Exception) else next(answers)) for one in read]

    def _read(self, request: Any) -> Tensors | Exception:
        try:
            return self._tensors(request)
        except Exception as error:
            return error

    def _answered(self, answer: Tensors | Exception) -> Any:
        """Make Triton's response of an answer, or of what went wrong instead."""
        if isinstance(answer, HistgenError):
            return self._error(answer)
        if isinstance(answer, Exception):
            # The client learns only the type: the message may contain anything. The server's log has it all.
            log.error("a request to %s failed", self._name, exc_info=answer)
            return self._error(_unexpected(answer))
        return self._triton.InferenceResponse([self._output(name, value) for name, value in answer.items()])

    def _tensors(self, request: Any) -> Tensors:
        if request.is_cancelled():
            raise TransientError("inference-deadline", "The client has stopped waiting.")
        version = json.loads(request.parameters() or "{}").get(VERSION, self._version)
        if version != self._version:
            raise FatalError(
                "inference-other-model", f"This server has another {self._name} than the one requested."
            )
        found = {}
        for spec in self._specs:
            for name, _ in wire_names(spec):
                tensor = self._triton.get_input_tensor_by_name(request, name)
                if tensor is not None:
                    value = tensor.as_numpy()
                    found[spec.name] = value[0] if self._bags else value
        return found

    def _error(self, error: HistgenError) -> Any:
        triton = self._triton
        return triton.InferenceResponse(error=triton.TritonError(encode_error(error), _status(triton, error)))

    def _output(self, name: str, value: np.ndarray[Any, Any]) -> Any:
        return self._triton.Tensor(name, np.ascontiguousarray(value[None] if self._bags else value))


def see_only(device: int, environment: MutableMapping[str, str]) -> None:
    """Hide all GPUs but one from this process, which has an instance of a model for each of them.

    `device`: its number among those that the server sees. Works only before CUDA is used.
    """
    seen = [one for one in environment.get(_VISIBLE, "").split(",") if one]
    environment[_VISIBLE] = seen[device] if device < len(seen) else str(device)


def _end_with(server: int) -> None:
    """End this process once its server is gone: after a kill -9 nothing else would.

    A request in progress then waits for the server forever, and lets no other Python code run: so each round
    also starts a timer in C, which ends the process unless the next round restarts it.
    """
    wait = _wait_for(server)
    while os.getppid() == server:
        faulthandler.dump_traceback_later(_STUCK_S, exit=True)
        wait()
    os._exit(1)


def _wait_for(server: int) -> Callable[[], object]:
    """Return a function that waits a while for the end of a process, and returns as soon as it ends."""
    try:
        ending = select.poll()
        ending.register(os.pidfd_open(server), select.POLLIN)
    except (OSError, AttributeError):  # a system without such descriptors
        return partial(time.sleep, 1)
    return partial(ending.poll, _ROUND_S * 1000)


def _engines(parameters: Mapping[str, str]) -> Loader:
    """Return what loads a model's compiled engines in place of its networks."""
    from histgen_lib.models.engines.serving import engine_runner, this_machine  # of GPUs

    machine, networks = this_machine(parameters[ENGINES]), json.loads(parameters[NETWORKS])
    return lambda folder, served, compute: engine_runner(
        folder, served.name, compute, machine=machine, digests=networks
    )


def _specs(inputs: Sequence[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    return joined(
        [TensorSpec(one["name"], DTYPES[one["data_type"].removeprefix("TYPE_")], ()) for one in inputs]
    )


def _status(triton: Any, error: HistgenError) -> Any:
    if isinstance(error, InvalidInputError):
        return triton.TritonError.INVALID_ARG
    return (
        triton.TritonError.UNAVAILABLE if isinstance(error, TransientError) else triton.TritonError.INTERNAL
    )


def _unexpected(error: Exception) -> InvalidInputError:
    return InvalidInputError(
        "inference-failed",
        f"The model server failed on these tensors ({type(error).__name__}).",
        hint="This is a bug in histgen: the server's log has the traceback.",
    )
