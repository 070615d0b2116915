"""The cases of an annotation that a command uses: printed before the work begins, and again in --json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histgen_lib.cli.output import err
from histgen_lib.errors import InvalidInputError
from histgen_lib.names import place_in

if TYPE_CHECKING:
    from histgen_lib.training.matching import Matching

AllowMissing = Annotated[
    bool,
    typer.Option(
        "--allow-missing", help="Continue although more than half of a split's cases have no bag or slide."
    ),
]


def read_truth(folder: Path | None, case_id: str) -> dict[str, Any] | None:
    """Read the truth that `histgen synth` wrote for a slide; None if there is none.

    Raises InvalidInputError("training-truth-unreadable").
    """
    path = place_in(folder, case_id, ".json") if folder else None
    if path is None or not path.is_file():
        return None
    try:
        truth = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        truth = None
    if not isinstance(truth, dict):
        raise InvalidInputError(
            "training-truth-unreadable",
            f"{path} is not the truth of a synthetic slide.",
            hint="With --truth, name the truth/ folder that histgen synth wrote.",
        )
    return truth


class MatchedCases:
    """Collects the matched cases of each split, and prints their counts and warnings to stderr once."""

    def __init__(self) -> None:
        self._splits: list[Matching] = []

    def __call__(self, cases: Sequence[Matching]) -> None:
        """Print these splits, unless they were printed before."""
        for matching in cases:
            if matching in self._splits:
                continue
            self._splits.append(matching)
            err().print(matching.summary(), style="dim", soft_wrap=True, highlight=False)
            for line in matching.warnings():
                err().print(line, style="yellow", soft_wrap=True, highlight=False, markup=False)

    def to_dict(self) -> dict[str, Any]:
        """Return counts and ids by split."""
        return {matching.split: matching.to_dict() for matching in self._splits}
