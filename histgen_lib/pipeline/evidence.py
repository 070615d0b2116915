"""How far a model's evidence is to be believed, field by field: measured once, kept in its config.json.

`histgen model measure` counts, on slides whose lesions are known, how often the strongest tile of a line
met the lesion that the line states, and writes `to_config()` under "evidence"; the pipeline reads it back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from histgen_lib.errors import FatalError
from histgen_lib.reports.record import EvidenceCheck
from histgen_lib.text.synoptic import parse_report

LEAST_SHARE = 0.5
"""Tiles are shown as evidence where at least this share of strongest tiles showed what the line states."""

_Z95 = 1.959964  # two-sided 95 % of the normal distribution


@dataclass(frozen=True)
class EvidenceFigures:
    """`fields`: measured lines and hits of each field, (lines, hits); empty where nothing was measured.

    A field's tiles are believed when the lower end of its 95 % interval reaches `threshold`, so that a
    field measured on a few slides only is not believed on luck.
    """

    fields: Mapping[str, tuple[int, int]]
    threshold: float = LEAST_SHARE

    def check(self, line: str) -> EvidenceCheck | None:
        """Say what was measured of lines such as this one; None where nothing was."""
        field = next((name for name in parse_report(line) if name in self.fields), None)
        return None if field is None else self.check_field(field)

    def check_field(self, field: str) -> EvidenceCheck:
        """Say what was measured of one of `fields`."""
        lines, hits = self.fields[field]
        low = round(wilson_low(hits, lines), 4)
        return EvidenceCheck(
            field=field,
            lines=lines,
            hits=hits,
            low=low,
            threshold=self.threshold,
            reliable=low >= self.threshold,
        )

    def to_config(self) -> dict[str, Any]:
        """Return the JSON for config.json's "evidence"."""
        fields = {name: {"lines": lines, "hits": hits} for name, (lines, hits) in self.fields.items()}
        return {"threshold": self.threshold, "fields": fields}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read config.json's "evidence"; empty means not measured. FatalError("model-config-invalid")."""
        try:
            fields = {
                str(name): (int(counts["lines"]), int(counts["hits"]))
                for name, counts in dict(config.get("fields", {})).items()
            }
            made = cls(fields, float(config.get("threshold", LEAST_SHARE)))
            sound = 0 <= made.threshold <= 1 and all(
                0 <= hits <= lines > 0 for lines, hits in fields.values()
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            sound = False
        if not sound:
            raise FatalError(
                "model-config-invalid",
                'The model\'s config.json has an "evidence" that cannot be used.',
                hint="Measure it again with `histgen model measure`, or copy the whole model folder again.",
            )
        return made


def wilson_low(hits: int, lines: int) -> float:
    """Lower end of Wilson's 95 % interval of a share: hits of lines (more than 0), 0..1."""
    share, z2 = hits / lines, _Z95**2
    middle = share + z2 / (2 * lines)
    spread = _Z95 * math.sqrt(share * (1 - share) / lines + z2 / (4 * lines**2))
    return max(0.0, (middle - spread) / (1 + z2 / lines))
