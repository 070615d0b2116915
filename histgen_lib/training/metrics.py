"""Numbers of a run, kept twice: metrics.csv for anyone, TensorBoard files for a plot."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from histgen_lib.files import write_atomic


class MetricsLog:
    """Rows of one run, from those of the epochs already done on: a resumed run leaves one table."""

    def __init__(self, folder: Path, rows: Sequence[Mapping[str, float]]) -> None:
        self._path = folder / "metrics.csv"
        self._rows = [dict(row) for row in rows]
        self._board = _board(folder / "tensorboard")
        if self._rows:  # the process may have been killed between saving its state and writing the table
            write_atomic(self._path, _csv(self._rows))

    def write(self, row: Mapping[str, float]) -> None:
        """Add one epoch."""
        self._rows.append(dict(row))
        write_atomic(self._path, _csv(self._rows))
        if self._board is not None:
            for name, value in row.items():
                self._board.add_scalar(name, value, int(row["epoch"]))
            self._board.flush()

    def close(self) -> None:
        """Close the TensorBoard file."""
        if self._board is not None:
            self._board.close()


def _csv(rows: Sequence[Mapping[str, float]]) -> bytes:
    """All rows under the union of their names, in order of appearance; a name a row lacks stays empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    table = csv.DictWriter(text, names, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode()


def _board(folder: Path) -> Any:
    """Open a TensorBoard writer, or None where tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))
