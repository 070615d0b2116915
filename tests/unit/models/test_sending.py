"""Arrays travel to a device without detours."""

from __future__ import annotations

import warnings

import numpy as np
import torch

from histgen_lib.models.sending import Sender, _tensor

CPU = torch.device("cpu")


def test_a_read_only_array_is_read_where_it_is_without_a_warning() -> None:
    values = np.arange(12, dtype=np.float16).reshape(3, 4)
    values.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = _tensor(values[1:])
    assert found.data_ptr() == values[1:].ctypes.data
    assert found.tolist() == values[1:].tolist()


def test_what_arrives_is_the_devices_own() -> None:
    values = np.ones((2, 3), dtype=np.float32)
    values.flags.writeable = False
    found = Sender(CPU).send(values, torch.bfloat16)
    found.zero_()
    assert found.dtype == torch.bfloat16
    assert values.all()
