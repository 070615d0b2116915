"""What callers hand to a torch HistGen for one slide, checked and made plain."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from histgen_lib.errors import InvalidInputError
from histgen_lib.models.histgen.decoding import Ints


def tile_features(features: object, width: int) -> Tensor:
    """Give one slide's features, [N, width] or [1, N, width] of any number type, as float32[N, width].

    Takes tensors (gradients are dropped) and whatever NumPy reads as an array; the result may share memory
    with it. Raises InvalidInputError: "bag-shape", "bag-empty", "bag-not-finite".
    """
    rows = _as_float32(features)
    rows = rows[0] if rows.ndim == 3 and len(rows) == 1 else rows
    if rows.ndim != 2 or rows.shape[1] != width:
        raise InvalidInputError(
            "bag-shape",
            f"This model takes features [tiles, {width}]; these are {list(rows.shape)}.",
            hint="Encode the slide with the tile encoder that the model was trained with.",
        )
    if len(rows) == 0:
        raise InvalidInputError("bag-empty", "There are no tiles to report on.", hint="Is there tissue?")
    if not bool(rows.isfinite().all()):
        raise InvalidInputError(
            "bag-not-finite", "Some tile features are not finite numbers.", hint="Encode the slide again."
        )
    return rows


def word_ids(ids: object, vocab_size: int) -> Ints:
    """Give one text's ids, [T] or [1, T] with T ≥ 1, as int64[T].

    Raises InvalidInputError("ids-invalid") unless all are whole numbers from 0 to `vocab_size`.
    """
    try:
        values = np.asarray(ids.detach().cpu() if isinstance(ids, Tensor) else ids)
    except ValueError:  # rows of unequal length
        values = np.zeros(0)
    values = values[0] if values.ndim == 2 and len(values) == 1 else values
    # Short circuits: only numbers can be compared, and what compares false may be no number at all.
    good = (
        values.dtype.kind in "iuf"
        and values.ndim == 1
        and values.size > 0
        and bool(((values >= 0) & (values <= vocab_size)).all())
        and bool((values == np.floor(values)).all())
    )
    if not good:
        raise InvalidInputError(
            "ids-invalid",
            f"A text is at least one whole number from 0 to {vocab_size}, in one row.",
            hint="Were these ids made by the tokenizer of another model?",
        )
    return np.array(values, dtype=np.int64)


def _as_float32(features: object) -> Tensor:
    if isinstance(features, Tensor):
        return features.detach().to(torch.float32)
    try:
        with np.errstate(over="ignore"):  # what leaves float32's range is found not to be finite
            rows = np.require(features, np.float32, ["C_CONTIGUOUS", "WRITEABLE"])
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            "bag-shape",
            f"Tile features must be an array of numbers, not {type(features).__name__} ({error}).",
        ) from error
    return torch.from_numpy(rows)
