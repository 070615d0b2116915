"""The table of docs/encoders.md, made from the rows. Torch-free."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from histgen_lib.models.tile_encoder.row import EncoderRow
from histgen_lib.models.tile_encoder.rows import ROWS

_POOLED = {
    "own": "the network's own",
    "class": "class token",
    "class+mean": "class token and mean of patches",
    "map": "mean of the third stage's map",
}


def table() -> str:
    """Return one line of Markdown for each published encoder."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "| name | published by | parameters (M) | width | feature | tiles | input | licence | weights |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in ROWS.values():
        cells = (
            f"`{row.name}`",
            row.publisher,
            f"{row.params / 1e6:.1f}",
            str(row.dim),
            _POOLED[row.pooling],
            f"{row.tile_px} px at {row.mpp:g} mpp",
            _input(row),
            row.licence,
            _weights(row),
        )
        yield f"| {' | '.join(cells)} |"


def _input(row: EncoderRow) -> str:
    stated = row.preprocessing
    resized = (
        f"resized to {stated.resize}, centre of {stated.side} px" if stated.resize else f"{stated.side} px"
    )
    return f"{resized}, {stated.interpolation}"


def _weights(row: EncoderRow) -> str:
    place = row.source.repo or row.source.page.removeprefix("https://")
    asked = ", on request" if row.source.gated else ""
    return f"`{row.source.file}` of [{place}]({row.source.page}){asked}"


if __name__ == "__main__":
    sys.stdout.write(table())
