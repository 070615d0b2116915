"""Work that is captured on a GPU stays on the device. Seen here without one, on tensors without memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from small_histgen import small_model
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from histgen_lib.models.captured import Work
from histgen_lib.models.histgen import torch_encode, torch_search
from histgen_lib.models.histgen.on_device import BeamStep, DeviceEncoder, Words, WordTable
from histgen_lib.models.sending import Sender

GPU = torch.device("cuda:0")


class Watch(TorchDispatchMode):
    """Notes operators that touch tensors of the host."""

    def __init__(self) -> None:
        super().__init__()
        self.on_host: list[str] = []

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        tensors = [one for one in tree_leaves((args, kwargs, found)) if isinstance(one, torch.Tensor)]
        if any(one.device != GPU for one in tensors):
            self.on_host.append(str(func))
        return found


@pytest.fixture(params=[torch.float32, torch.float16, torch.bfloat16], ids=str)
def works(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Work]]:
    """Make an encoder's and a search's work on a GPU."""
    found: list[Work] = []

    def captured(work: Work, *_: object) -> Work:
        found.append(work)
        return work

    monkeypatch.setattr(torch_encode, "captured", captured)
    monkeypatch.setattr(torch_search, "captured", captured)
    with FakeTensorMode():
        torch.set_default_dtype(request.param)
        try:
            with GPU:
                model = small_model("corrected")
                encoder = DeviceEncoder(model)
                step = BeamStep(model, 3, 16, WordTable(Words(model, 16)))
        finally:
            torch.set_default_dtype(torch.float32)
        sender = Sender(torch.device("cpu"))
        torch_encode._CapturedEncoder(encoder, sender, 16, torch.float16, None)
        torch_search.Search(step, torch_search.Size(2, 32, 3, 16))
        yield found


def test_captured_work_touches_no_memory_of_the_host_and_reads_nothing_back(works: list[Work]) -> None:
    assert len(works) == 2
    for work in works:
        with Watch() as watch:
            work()
        assert watch.on_host == []


def test_work_that_waits_for_the_device_or_copies_to_it_would_be_noticed() -> None:
    with FakeTensorMode():
        mask = torch.zeros(3, dtype=torch.bool, device=GPU)
        with Watch() as watch:
            mask.copy_(torch.zeros(3, dtype=torch.bool))
        assert watch.on_host
        with pytest.raises(RuntimeError):
            mask.nonzero()
        with pytest.raises(RuntimeError):
            mask.any().item()
