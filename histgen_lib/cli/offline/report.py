"""`histgen report`: drafts reports of slides."""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histgen_lib.cli.options import (
    ENCODER_META,
    Model,
    Mpp,
    OnDevice,
    Out,
    Slides,
    Threads,
    encoder_choice,
    expand,
    is_bag,
    model_folder,
    need_train_extra,
)
from histgen_lib.cli.output import (
    Failure,
    JsonFlag,
    confidence_word,
    emit_json,
    number_of,
    out,
    say_error,
    say_heading,
)
from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.names import printable

if TYPE_CHECKING:
    from histgen_lib.inference import InferenceServer
    from histgen_lib.models.serving import Compute
    from histgen_lib.pipeline import Drafter, ReportModel, Result
    from histgen_lib.pipeline.draft.similar import NearestCases
    from histgen_lib.pipeline.outputs import OutputPlaces

SOME_FAILED = 1
_CASES_S = 60.0
"""A person who names an index waits longer for it than a stream can."""
FILES = {"json": "draft.json", "text": "draft.txt", "html": "draft.html", "bag": "bag.parquet"}


@dataclass(frozen=True)
class Job:
    """The settings common to all slides of one command."""

    out: OutputPlaces
    drafter: Drafter
    mpp: float | None
    bag: Path | None
    overwrite: bool
    nearest: NearestCases | None = None


@dataclass(frozen=True)
class Outcome:
    """The outcome for one slide: a result or a failure."""

    path: Path
    result: Result | None = None
    failure: Failure | None = None


def report(
    slides: Slides,
    *,
    out_dir: Out,
    model: Model = None,
    mpp: Mpp = None,
    beam_size: Annotated[
        int | None,
        typer.Option("--beam-size", min=1, max=32, help="Beams of the beam search. Default: the model's."),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            metavar=ENCODER_META,
            help="Tile encoder, or its folder, for a model that has none. Needs the train extra.",
        ),
    ] = None,
    device: OnDevice = "cpu",
    threads: Threads = None,
    bag: Annotated[
        Path | None,
        typer.Option(
            "--bag", metavar="FILE", help="Bag of this one slide from an earlier run; skips encoding."
        ),
    ] = None,
    cases: Annotated[
        str | None,
        typer.Option(
            "--cases",
            metavar="DIR|s3://…",
            help="Case index; drafts show its nearest signed cases.",
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Draft again, replacing existing drafts, even those of other slides with the same name.",
        ),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Draft the report of each slide, with the evidence for every line.

    Writes DIR/<slide>/draft.json, draft.txt, draft.html and bag.parquet, and similar.json if the model can
    compare cases. A slide that fails does not stop the others, and finished drafts are not repeated. Bags
    (.parquet, .h5, .pt) can be given instead of slides.

    For example:

      histgen report slide.svs --out drafts

      histgen report scans/ more/*.tiff --out drafts --mpp 0.25

      histgen report drafts/slide/bag.parquet --out again --json

      histgen report slide.svs --model trained --cases index --out drafts

      histgen report slide.svs --model trained --encoder uni=uni/pytorch_model.bin --out drafts
    """
    from histgen_lib.models.serving import Compute

    paths = expand(slides)
    _check(paths, bag)
    job = make_job(
        out_dir,
        model=model,
        compute=Compute(threads, device),
        encoder=encoder,
        mpp=mpp,
        bag=bag,
        beam_size=beam_size,
        overwrite=overwrite,
        cases=cases,
    )
    outcomes = draft_all(paths, job, show=not as_json)
    if as_json:
        emit_json(to_dict(outcomes))
    elif len(outcomes) > 1:
        print_summary(outcomes)
    raise typer.Exit(exit_code(outcomes))


def make_job(
    out_dir: Path,
    *,
    model: Path | None = None,
    compute: Compute | None = None,
    encoder: str | None = None,
    mpp: float | None = None,
    bag: Path | None = None,
    beam_size: int | None = None,
    overwrite: bool = False,
    cases: str | None = None,
) -> Job:
    """Load the model once for all slides; `encoder` as a person names it; `cases`: where a case index is.

    Raises InvalidInputError: "case-index-missing", "model-no-retrieval".
    """
    from histgen_lib.inference import OnnxServer
    from histgen_lib.models.serving import Compute
    from histgen_lib.pipeline import Drafter, load_model
    from histgen_lib.pipeline.outputs import OutputPlaces

    loaded, compute = load_model(model_folder(model)), compute or Compute()
    server: InferenceServer = OnnxServer(
        loaded.folder.path, compute.threads, device=compute.device, precision=compute.precision
    )
    if encoder is not None:
        loaded, server = lend_encoder(encoder, loaded, server, compute)
    nearest = None if cases is None else _nearest_cases(cases, loaded)
    return Job(OutputPlaces(out_dir), Drafter(loaded, server, beam_size), mpp, bag, overwrite, nearest)


def _nearest_cases(index: str, model: ReportModel) -> NearestCases:
    from histgen_lib.pipeline.draft.similar import NearestCases
    from histgen_lib.retrieval import CaseIndexSettings, open_case_index
    from histgen_lib.retrieval.local import index_url
    from histgen_lib.storage import StorageSettings

    if not model.folder.retrieval:
        raise InvalidInputError(
            "model-no-retrieval",
            f"The model {model.folder.name} has no retrieval network, so cases cannot be compared.",
            hint="Leave out --cases, or use a model with one; docs/search.md says how it is trained.",
        )
    where = CaseIndexSettings(StorageSettings(index_url(index)))
    return NearestCases(lambda: open_case_index(where), limit_s=_CASES_S)


def lend_encoder(
    encoder: str, model: ReportModel, server: InferenceServer, compute: Compute
) -> tuple[ReportModel, InferenceServer]:
    """Return a model and a server that encode with an encoder that is not in the model's folder.

    It gets tiles as the model was trained on. Raises InvalidInputError("model-other-encoder").
    """
    need_train_extra("histgen report --encoder")
    from histgen_lib.pipeline.scan.torch_encoder import LentEncoderServer

    tiling = model.tiling
    opened = encoder_choice(encoder, tile_px=tiling.tile_px, tile_mpp=tiling.mpp).open()
    model = model.with_encoder(opened.maker)
    network = opened.load()
    version = opened.maker.sha256
    return model, LentEncoderServer(server, network, tile_px=tiling.tile_px, version=version, compute=compute)


def draft_all(paths: Sequence[Path], job: Job, *, show: bool) -> list[Outcome]:
    """Draft every slide. A bad slide is reported and skipped; a broken installation stops the command."""
    outcomes = []
    for number, path in enumerate(paths, 1):
        outcomes.append(_draft(path, job, f"{printable(path.name)} ({number}/{len(paths)})"))
        failure, result = outcomes[-1].failure, outcomes[-1].result
        if failure is not None and (show or len(paths) > 1):
            if len(paths) > 1:
                say_heading(path)
            say_error(failure)
        if show and result is not None:
            print_draft(result)
    return outcomes


def to_dict(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return what --json prints."""
    return {
        "drafts": [_draft_dict(o.path, o.result) for o in outcomes if o.result is not None],
        "errors": [{"path": str(o.path), **o.failure.to_dict()} for o in outcomes if o.failure is not None],
    }


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """Return 0 if all succeeded; a single slide's own failure code; SOME_FAILED for several slides."""
    failures = [o.failure for o in outcomes if o.failure is not None]
    if not failures:
        return 0
    return failures[0].exit_code if len(outcomes) == 1 else SOME_FAILED


def print_draft(result: Result) -> None:
    """Print a draft as in draft.txt, and the path of its page."""
    from histgen_lib.reports.renderers.text import to_text

    console = out()
    console.rule(result.slide_id, style="dim", align="left")
    style = (
        "bold red" if result.draft.out_of_distribution.flag else "yellow" if result.draft.abstained else ""
    )
    first, _, rest = to_text(result.draft).partition("\n\n")
    console.print(first, style=style, soft_wrap=True)
    console.print("\n" + rest, soft_wrap=True)
    note = " (already there, unchanged)" if result.status == "unchanged" else ""
    console.print(f"{result.folder / FILES['html']}{note}\n", style="dim", soft_wrap=True)


def print_summary(outcomes: Sequence[Outcome]) -> None:
    """Print one line per slide."""
    from rich.table import Table

    table = Table("Slide", "Draft", "Confidence", "Note", title="Summary", title_justify="left")
    for outcome in outcomes:
        table.add_row(*_summary_row(outcome))
    out().print(table)
    failed = sum(o.failure is not None for o in outcomes)
    out().print(f"{len(outcomes) - failed} of {number_of(len(outcomes), 'slide')} drafted, {failed} failed.")


def _check(paths: Sequence[Path], bag: Path | None) -> None:
    if bag is not None and (len(paths) != 1 or is_bag(paths[0])):
        raise InvalidInputError(
            "bag-one-slide",
            "--bag works with exactly one slide.",
            hint="Use --bag with a single slide, or pass bags as arguments without --bag.",
        )


def _draft(path: Path, job: Job, title: str) -> Outcome:
    from histgen_lib.cli.progress import progress_bar
    from histgen_lib.pipeline import report_bag, report_slide

    try:
        with progress_bar(title) as progress:
            if is_bag(path):
                result = report_bag(
                    path,
                    job.out,
                    job.drafter,
                    overwrite=job.overwrite,
                    nearest=job.nearest,
                    progress=progress,
                )
            else:
                result = report_slide(
                    path,
                    job.out,
                    job.drafter,
                    mpp=job.mpp,
                    bag=job.bag,
                    overwrite=job.overwrite,
                    nearest=job.nearest,
                    progress=progress,
                )
    except FatalError:
        raise
    except Exception as error:  # one slide's failure, whatever it is, must not stop the others
        if os.environ.get("HISTGEN_DEBUG") == "1":
            traceback.print_exception(error)
        return Outcome(path, failure=Failure.of(error))
    return Outcome(path, result=result)


def _draft_dict(path: Path, result: Result) -> dict[str, Any]:
    draft = result.draft
    return {
        "path": str(path),
        "slide_id": result.slide_id,
        "status": result.status,
        "files": {kind: str(result.folder / name) for kind, name in FILES.items()},
        "abstained": draft.abstained,
        "out_of_distribution": draft.out_of_distribution.flag,
        "confidence": draft.confidence,
        "calibrated": draft.calibrated,
        "text": draft.text,
        "fields": draft.fields,
    }


def _summary_row(outcome: Outcome) -> tuple[str, str, str, str]:
    if outcome.failure is not None:
        return printable(outcome.path.name), "failed", "", outcome.failure.code
    assert outcome.result is not None
    draft = outcome.result.draft
    diagnosis = draft.fields.get("diagnosis") or draft.text.partition("\n")[0]
    note = ", ".join(draft.abstention.reasons) or (
        "unchanged" if outcome.result.status == "unchanged" else ""
    )
    trusted = not draft.out_of_distribution.flag
    confidence = confidence_word(draft.confidence) if trusted else "not valid"
    return printable(outcome.path.name), diagnosis, confidence, note
