"""Which lines of a draft no region of the slide supports, by the retrieval network's measured thresholds.

A line's score is the best cosine of its text's vector with the vector of a region of the slide. What score a
line needs was measured, with how often that was right: `histgen train-retrieval` writes it to config.json
under "retrieval", "consistency", and `Consistency` reads it back:

    {"lines": FIGURES, "fields": {"grade": FIGURES, …}, "unchecked": ["mitotic_score", …]}

where FIGURES is {"threshold", "right", "right_flagged", "wrong", "wrong_flagged"}. A line is judged by the
figures of the field that it states; where no fields were measured apart, by those of all lines. It is not
judged at all if its field is among the unchecked ones, or was never measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from histgen_lib.errors import FatalError
from histgen_lib.reports.record import Region, SentenceSupport, SupportRates
from histgen_lib.text.synoptic import parse_report


@dataclass(frozen=True)
class Figures:
    """A line that scores less than `threshold` is flagged; how many measured lines were.

    Of `right` lines that were right and `wrong` ones that were not, those that were flagged.
    """

    threshold: float
    right: int
    right_flagged: int
    wrong: int
    wrong_flagged: int

    @property
    def sound(self) -> bool:
        """Whether these can be figures."""
        return (
            -1 <= self.threshold <= 1
            and 0 <= self.right_flagged <= self.right > 0
            and 0 <= self.wrong_flagged <= self.wrong > 0
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read what `Consistency.to_config` wrote. Raises ValueError and the like for anything else."""
        counts = {name: int(config[name]) for name in ("right", "right_flagged", "wrong", "wrong_flagged")}
        figures = cls(float(config["threshold"]), **counts)
        if not figures.sound:
            raise ValueError("figures that cannot be")
        return figures


@dataclass(frozen=True)
class Consistency:
    """What was measured: of all lines, of those that state a field, and the fields that cannot be checked."""

    lines: Figures | None = None
    fields: Mapping[str, Figures] = field(default_factory=dict)
    unchecked: frozenset[str] = frozenset()

    def figures_of(self, line: str) -> tuple[str, Figures] | None:
        """Return by which figures a line is judged, and of which field they are, "" for all lines."""
        stated = list(parse_report(line))
        if any(name in self.unchecked for name in stated):
            return None
        if not self.fields:
            return None if self.lines is None else ("", self.lines)
        return next(((name, self.fields[name]) for name in stated if name in self.fields), None)

    def judge(
        self, line: str, score: float, region: Region, slide_id: str | None = None
    ) -> SentenceSupport | None:
        """Judge a line by its best region; None if lines like this one are not checked."""
        found = self.figures_of(line)
        if found is None:
            return None
        name, figures = found
        counts = {key: value for key, value in asdict(figures).items() if key != "threshold"}
        rounded, threshold = round(score, 4), round(figures.threshold, 4)
        return SentenceSupport(
            score=rounded,
            threshold=threshold,
            supported=rounded >= threshold,
            region=region,
            slide_id=slide_id,
            rates=SupportRates(field=name, **counts),
        )

    def to_config(self) -> dict[str, Any]:
        """Return the JSON for config.json's "retrieval", "consistency"."""
        config: dict[str, Any] = {} if self.lines is None else {"lines": asdict(self.lines)}
        fields = {name: asdict(figures) for name, figures in self.fields.items()}
        return config | {"fields": fields, "unchecked": sorted(self.unchecked)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read config.json's "retrieval", "consistency"; empty: nothing is checked.

        Raises FatalError("model-config-invalid").
        """
        try:
            lines, fields = config.get("lines"), dict(config.get("fields", {}))
            return cls(
                None if lines is None else Figures.from_config(lines),
                {str(name): Figures.from_config(one) for name, one in fields.items()},
                frozenset(map(str, config.get("unchecked", ()))),
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            raise FatalError(
                "model-config-invalid",
                'The "consistency" in the "retrieval" of the model\'s config.json cannot be used.',
                hint="Measure it again by training the retrieval network, or fetch the model again.",
            ) from None


UNCHECKED = Consistency()
"""Of a model that was never measured, or has no such network: it checks nothing."""
