"""`histgen submit`: give slides to a running stack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from histgen_lib.cli.options import Mpp, expand
from histgen_lib.cli.output import Failure, JsonFlag, emit_json, err, out, say_error, say_heading
from histgen_lib.cli.stream.options import Gateway, Home, Store, StoreEndpoint, reach
from histgen_lib.errors import FatalError, HistgenError

if TYPE_CHECKING:
    from histgen_lib.catalogue.states import SlideState
    from histgen_lib.client.connection import Connection
    from histgen_lib.client.submitting import Receipt
    from histgen_lib.storage import ObjectStore

SOME_FAILED = 1
_STATUS = {
    "accepted": "accepted",
    "rescan": "accepted as a new scan of a known slide",
    "duplicate": "already submitted",
}


@dataclass
class Submission:
    """One slide, and how it was received and ended."""

    slide: str
    receipt: Receipt | None = None
    failure: Failure | None = None
    end: SlideState | None = None

    @property
    def copy(self) -> str:
        """The id by its file's name, if the slide is a copy of one with another id."""
        from histgen_lib.names import slide_id_of

        name = slide_id_of(self.slide)
        return name if self.receipt and self.receipt.slide_id != name else ""


def submit(
    slides: Annotated[
        list[str],
        typer.Argument(
            metavar="SLIDE…",
            help="Slides, folders of slides, globs, or s3:// URIs. They stay where they are.",
            show_default=False,
        ),
    ],
    *,
    mpp: Mpp = None,
    case: Annotated[
        str | None,
        typer.Option("--case", metavar="ID", help="Treat these slides as one case, with one report."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until each has a draft or a dead letter.")
    ] = False,
    home: Home = None,
    gateway: Gateway = None,
    store: Store = None,
    store_endpoint: StoreEndpoint = None,
    as_json: JsonFlag = False,
) -> None:
    """Submit slides to a running stack. A slide that it already knows is not drafted again.

    For a slide that ended in a dead letter because its resolution is unknown, give --mpp to try again.

    For example:

      histgen submit slide.svs --wait

      histgen submit case-7/*.tiff --case case-7 --mpp 0.25

      histgen submit s3://scans/a.svs --gateway http://gateway:8080 --store s3://lab/histgen
    """
    connection = reach(home, store=store, store_endpoint=store_endpoint, gateway=gateway)
    submissions = _submit_all(connection, _expanded(slides), mpp, case)
    if not as_json and not wait:
        _print_submissions(submissions)
    if wait:
        _wait(connection, submissions, as_json=as_json)
    if as_json:
        opened = connection.store()
        emit_json({"slides": [_to_dict(one, opened) for one in submissions]})
    raise typer.Exit(exit_code([one.failure for one in submissions if one.failure], len(submissions)))


def exit_code(failures: Sequence[Failure], total: int) -> int:
    """Return 0 without failures; for a single slide its failure's code; else SOME_FAILED."""
    if not failures:
        return 0
    return failures[0].exit_code if total == 1 else SOME_FAILED


def _expanded(slides: Sequence[str]) -> list[str]:
    found: list[str] = []
    for slide in slides:
        found += [slide] if "://" in slide else [str(path) for path in expand([slide])]
    return list(dict.fromkeys(found))


def _submit_all(
    connection: Connection, slides: Sequence[str], mpp: float | None, case: str | None
) -> list[Submission]:
    from histgen_lib.client.submitting import submit as submit_one
    from histgen_lib.names import slide_id_of

    gateway, token = connection.need_gateway(), connection.token()
    together = (case, [slide_id_of(slide) for slide in slides]) if case is not None else None
    submissions = []
    for slide in slides:
        try:
            receipt = submit_one(
                gateway, slide, token=token, mpp=mpp, case=together, ca_file=connection.ca_file
            )
            submissions.append(Submission(slide, receipt))
        except FatalError:
            raise
        except HistgenError as error:
            if len(slides) == 1:
                raise
            submissions.append(Submission(slide, failure=Failure.of(error)))
            _print_failure(slide, submissions[-1].failure)
    return submissions


def _print_submissions(submissions: Sequence[Submission]) -> None:
    for one in submissions:
        if one.receipt:
            status = _STATUS.get(one.receipt.status, one.receipt.status)
            name = f"{one.copy}, a copy of {one.receipt.slide_id}" if one.copy else one.receipt.slide_id
            out().print(f"{name}: {status}", soft_wrap=True)
    if any(one.receipt for one in submissions):
        out().print("histgen watch shows their progress.", style="dim")


def _wait(connection: Connection, submissions: Sequence[Submission], *, as_json: bool) -> None:
    from histgen_lib.cli.stream.view import failure_of, tally
    from histgen_lib.client.submitting import wait_for

    store = connection.store()
    with err().status("Waiting …") as status:
        ends = wait_for(
            connection,
            [one.receipt for one in submissions if one.receipt],
            show=lambda snapshot: status.update(tally(snapshot)),
        )
        for slide in ends:
            same = [one for one in submissions if one.receipt and one.receipt.slide_id == slide.slide_id]
            for one in same:  # several if they are copies of one slide
                one.end, one.failure = slide, failure_of(slide)
            if not as_json:
                _print_end(slide, store, [one.copy for one in same if one.copy])


def _print_end(slide: SlideState, store: ObjectStore, copies: Sequence[str]) -> None:
    from histgen_lib.cli.stream.view import ending, failure_of, place_of

    for copy in copies:
        out().print(f"{copy} is a copy of {slide.slide_id}: same bytes, same slide.", soft_wrap=True)
    failure = failure_of(slide)
    if failure:
        _print_failure(slide.slide_id, failure)
        return
    out().print(slide.slide_id, style="bold", end=": ", soft_wrap=True)
    out().print(ending(slide), soft_wrap=True)
    if slide.draft:
        out().print(f"  {place_of(store, slide.draft.page_key)}", soft_wrap=True)


def _print_failure(slide: str, failure: Failure | None) -> None:
    say_heading(slide)
    if failure:
        say_error(failure)


def _to_dict(one: Submission, store: ObjectStore) -> dict[str, object]:
    from histgen_lib.cli.stream.view import slide_json

    return {
        "slide": one.slide,
        "slide_id": one.receipt and one.receipt.slide_id,
        "copy_of": one.receipt.slide_id if one.receipt and one.copy else None,
        "event_id": one.receipt and one.receipt.event_id,
        "status": one.receipt and one.receipt.status,
        "error": one.failure and one.failure.to_dict(),
        **({"end": slide_json(one.end, store)} if one.end else {}),
    }
