"""The results of a demo: how each slide ended, with the ground truth beside the draft, and a summary."""

from __future__ import annotations

import os
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from histgen_lib.cli.output import Failure, number_of, out

if TYPE_CHECKING:
    from rich.text import Text

    from histgen_lib.catalogue.states import DraftFacts
    from histgen_lib.client.following import EndedSlide

_WIDTH = 78
_OUT_OF_DISTRIBUTION = (
    "OUT OF DISTRIBUTION: the slide is unlike those the model was trained on; do not use this draft."
)


@dataclass(frozen=True)
class Truth:
    """The true report of a drawn slide, and the value of each of its fields."""

    report: str
    fields: Mapping[str, str]


@dataclass(frozen=True)
class DemoSlide:
    """A slide of the demo; `truth` if it was drawn."""

    path: Path
    slide_id: str
    truth: Truth | None = None


@dataclass(frozen=True)
class Result:
    """How a slide of the demo ended. `page`: where the draft's page lies; `seconds`: from its scan."""

    slide: DemoSlide
    seconds: float
    draft: DraftFacts | None
    page: str | None
    failure: Failure | None

    @property
    def right(self) -> int:
        """How many fields of the draft are right."""
        drafted = self.draft.fields if self.draft else {}
        return sum(drafted.get(name) == value for name, value in self._true_fields.items())

    @property
    def fields(self) -> int:
        """How many fields the true report has; 0 if it is unknown."""
        return len(self._true_fields)

    @property
    def _true_fields(self) -> Mapping[str, str]:
        return self.slide.truth.fields if self.slide.truth else {}

    def to_dict(self) -> dict[str, object]:
        """JSON-ready."""
        return {
            "slide_id": self.slide.slide_id,
            "path": str(self.slide.path),
            "seconds": self.seconds,
            "report": self.slide.truth and self.slide.truth.report,
            "draft": self.draft and self.draft.text,
            "abstained": self.draft and self.draft.abstained,
            "out_of_distribution": self.draft and self.draft.out_of_distribution,
            "confidence": self.draft and self.draft.confidence,
            "right": self.right,
            "fields": self.fields,
            "page": self.page,
            "error": self.failure and self.failure.to_dict(),
        }


@dataclass(frozen=True)
class Summary:
    """How the demo went. `home`: the folder of its stack."""

    drafts: int
    dead_letters: int
    seconds: float
    slides_per_minute: float
    scan_to_draft_p50_s: float | None
    scan_to_draft_max_s: float | None
    ready_seconds: float
    home: str

    @classmethod
    def of(cls, ends: Sequence[EndedSlide], *, seconds: float, ready_s: float, home: str) -> Summary:
        """Summarise how slides ended within `seconds`, by a stack that was ready after `ready_s`."""
        drafts = [ended.seconds for ended in ends if ended.slide.draft]
        return cls(
            drafts=len(drafts),
            dead_letters=len(ends) - len(drafts),
            seconds=round(seconds, 1),
            slides_per_minute=round(60 * len(ends) / seconds, 1),
            scan_to_draft_p50_s=round(statistics.median(drafts), 1) if drafts else None,
            scan_to_draft_max_s=round(max(drafts), 1) if drafts else None,
            ready_seconds=round(ready_s, 1),
            home=home,
        )


def print_results(results: Sequence[Result], summary: Summary) -> None:
    """Print how every slide ended, and the summary."""
    out().print("\nAI-generated drafts, not for clinical use\n", style="bold")
    for result in results:
        if result.failure:
            _print_letter(result.slide.slide_id, result.failure)
        elif result.draft:
            _print_draft(result, result.draft)
    _print_summary(results, summary)
    _print_next_steps(results, summary.home)


def _print_draft(result: Result, draft: DraftFacts) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("Draft", title=result.slide.slide_id, title_justify="left", min_width=_WIDTH)
    if result.slide.truth is None:
        table.add_row(Text(draft.text))
    else:
        report = result.slide.truth.report
        table.add_column("Ground truth")
        table.add_row(_marked(draft.text, report), Text(report))
    out().print(table)
    if draft.out_of_distribution:
        out().print(_OUT_OF_DISTRIBUTION, style="bold red", soft_wrap=True)
    notes = [f"{result.right} of {result.fields} fields right"] if result.fields else []
    if draft.abstained:
        notes.append("the model abstains")
    notes.append(f"{result.seconds:.1f} s from scan to draft")
    out().print("; ".join(notes), soft_wrap=True)
    out().print(f"{result.page}\n", style="dim", soft_wrap=True)


def _print_letter(slide_id: str, failure: Failure) -> None:
    console = out()
    console.print(slide_id, style="italic", soft_wrap=True)
    console.print(f"dead letter[{failure.code}]:", style="bold red", end=" ", soft_wrap=True)
    console.print(failure.message, soft_wrap=True)
    console.print(f"→ {failure.hint}\n", soft_wrap=True)


def _print_summary(results: Sequence[Result], summary: Summary) -> None:
    drawn = [result for result in results if result.fields]
    right, total = sum(result.right for result in drawn), sum(result.fields for result in drawn)
    lines = [
        f"{number_of(summary.drafts, 'draft')} and {number_of(summary.dead_letters, 'dead letter')} from "
        f"{number_of(len(results), 'slide')} "
        f"in {summary.seconds:.0f} s: {summary.slides_per_minute:.1f} slides a minute."
    ]
    if summary.scan_to_draft_p50_s is not None:
        lines.append(
            f"From scan to draft {summary.scan_to_draft_p50_s:.1f} s (median), "
            f"{summary.scan_to_draft_max_s:.1f} s (longest); the stack was ready after "
            f"{summary.ready_seconds:.1f} s."
        )
    new = f"{number_of(len(drawn), 'drawn slide')} new to the model"
    lines.append(f"{right} of {total} fields right on {new}.")
    for line in lines:
        out().print(line, soft_wrap=True)


def _print_next_steps(results: Sequence[Result], home: str) -> None:
    histgen = _program()
    unscaled = [
        result.slide.path
        for result in results
        if result.failure and result.failure.code == "slide-mpp-unknown"
    ]
    lines = [
        f"\nEverything is in {home}: drafts in objects/reports, logs in logs.",
        f"Look again: {histgen} status --home {home}",
        f"Go on:      {histgen} up --home {home}",
        *(f"and then:   {histgen} submit {path} --mpp 0.25 --wait --home {home}" for path in unscaled),
    ]
    for line in lines:
        out().print(line, soft_wrap=True)


def _program() -> str:
    """Return how to call this command line from here."""
    return "histgen" if shutil.which("histgen") else os.path.relpath(sys.argv[0])


def _marked(draft: str, truth: str) -> Text:
    """Mark in red the lines of the draft that the truth does not have."""
    from rich.text import Text

    true = {line.strip() for line in truth.splitlines()}
    lines = [Text(line, style="" if line.strip() in true else "bold red") for line in draft.splitlines()]
    return Text("\n").join(lines)
