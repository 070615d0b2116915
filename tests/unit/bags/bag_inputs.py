"""Feature files to be read in tests, and the errors of those that are refused."""

from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest

from histgen_lib.bags import Bag, read_bag
from histgen_lib.errors import InvalidInputError

FEATURES = np.random.default_rng(0).normal(size=(12, 16)).astype(np.float32)
COORDS = np.array([(x * 512, y * 512) for y in range(3) for x in range(4)], np.int64)


def write_h5(path, features=FEATURES, coords=COORDS, **attributes):
    """Write a file in the layout of CLAM and TRIDENT; None omits an array."""
    with h5py.File(path, "w") as file:
        if features is not None:
            file["features"] = features
        if coords is not None:
            file["coords"] = coords
            file["coords"].attrs.update(attributes)
    return path


def a_bag(**changes) -> Bag:
    """Make a bag of these features and places, with some fields changed."""
    bag = Bag("a", FEATURES.astype(np.float16), COORDS.astype(np.int32), 512, 256, 0.5, 0.25, (0, 0), "", "")
    return replace(bag, **changes)


def refusal(path) -> InvalidInputError:
    """Return the error of a file that is refused; it must have a hint."""
    with pytest.raises(InvalidInputError) as caught:
        read_bag(path)
    assert caught.value.hint
    return caught.value
