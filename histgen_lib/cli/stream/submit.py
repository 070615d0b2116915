"""`histgen submit`: hand slides to the gateway of a running stack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histgen_lib.cli.options import Mpp
from histgen_lib.cli.output import Failure, JsonFlag, emit_json, err, out, say_error, say_heading
from histgen_lib.cli.sources import expand
from histgen_lib.cli.stream.options import Gateway, Home, Store, StoreEndpoint, reach
from histgen_lib.errors import FatalError, HistgenError

if TYPE_CHECKING:
    from histgen_lib.catalogue.states import SlideState
    from histgen_lib.client.connection import Connection
    from histgen_lib.client.submitting import Receipt
    from histgen_lib.storage import ObjectStore

SOME_FAILED = 1
_SAID = {
    "accepted": "taken",
    "rescan": "taken as a new scan of a slide that was there before",
    "duplicate": "was submitted before",
}


@dataclass
class Submission:
    """One slide and what became of it."""

    slide: str
    receipt: Receipt | None = None
    failure: Failure | None = None
    end: SlideState | None = None

    @property
    def copy(self) -> str:
        """What the slide would be called by its file, if it is a copy of one with another name."""
        from histgen_lib.names import slide_id_of

        name = slide_id_of(self.slide)
        return name if self.receipt and self.receipt.slide_id != name else ""


def submit(
    slides: Annotated[
        list[str],
        typer.Argument(
            metavar="SLIDE…",
            help="Slides, folders of slides, globs, or s3:// URIs; they stay where they are.",
            show_default=False,
        ),
    ],
    *,
    mpp: Mpp = None,
    case: Annotated[
        str | None,
        typer.Option("--case", metavar="ID", help="These slides are one case and get one report together."),
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
    """Hand slides to a running stack. A slide that it knows already is not drafted again.

    Of a slide that lies in a dead letter for want of its resolution, --mpp makes a new start.

    For example:

      histgen submit slide.svs --wait

      histgen submit case-7/*.tiff --case case-7 --mpp 0.25

      histgen submit s3://scans/a.svs --gateway http://gateway:8080 --store s3://lab/histgen
    """
    connection = reach(home, store=store, store_endpoint=store_endpoint, gateway=gateway)
    handed = _hand_over(connection, _named(slides), mpp, case)
    if not as_json and not wait:
        _say_handed(handed)
    if wait:
        _wait(connection, handed, as_json=as_json)
    if as_json:
        store_of = connection.store()
        emit_json({"slides": [_to_dict(one, store_of) for one in handed]})
    raise typer.Exit(exit_code([one.failure for one in handed if one.failure], len(handed)))


def exit_code(failures: Sequence[Failure], total: int) -> int:
    """0 if all went well; the failure's own code for a single slide; SOME_FAILED for several."""
    if not failures:
        return 0
    return failures[0].exit_code if total == 1 else SOME_FAILED


def _named(slides: Sequence[str]) -> list[str]:
    found: list[str] = []
    for slide in slides:
        found += [slide] if "://" in slide else [str(path) for path in expand([slide])]
    return list(dict.fromkeys(found))


def _hand_over(
    connection: Connection, slides: Sequence[str], mpp: float | None, case: str | None
) -> list[Submission]:
    from histgen_lib.client.submitting import submit as hand
    from histgen_lib.names import slide_id_of

    gateway, token = connection.need_gateway(), connection.token()
    together = (case, [slide_id_of(slide) for slide in slides]) if case is not None else None
    handed = []
    for slide in slides:
        try:
            handed.append(Submission(slide, hand(gateway, slide, token=token, mpp=mpp, case=together)))
        except FatalError:
            raise
        except HistgenError as error:
            if len(slides) == 1:
                raise
            handed.append(Submission(slide, failure=Failure.of(error)))
            _say_failed(slide, handed[-1].failure)
    return handed


def _say_handed(handed: Sequence[Submission]) -> None:
    for one in handed:
        if one.receipt:
            said = _SAID.get(one.receipt.status, one.receipt.status)
            name = f"{one.copy}, a copy of {one.receipt.slide_id}" if one.copy else one.receipt.slide_id
            out().print(f"{name}: {said}", soft_wrap=True)
    if any(one.receipt for one in handed):
        out().print("histgen watch shows how far they are.", style="dim")


def _wait(connection: Connection, handed: Sequence[Submission], *, as_json: bool) -> None:
    from histgen_lib.cli.stream.view import failure_of, tally
    from histgen_lib.client.submitting import wait_for

    store = connection.store()
    with err().status("Waiting …") as status:
        ends = wait_for(
            connection,
            [one.receipt for one in handed if one.receipt],
            show=lambda picture: status.update(tally(picture)),
        )
        for slide in ends:
            same = [one for one in handed if one.receipt and one.receipt.slide_id == slide.slide_id]
            for one in same:  # several, if they are copies of one
                one.end, one.failure = slide, failure_of(slide)
            if not as_json:
                _say_end(slide, store, [one.copy for one in same if one.copy])


def _say_end(slide: SlideState, store: ObjectStore, copies: Sequence[str]) -> None:
    from histgen_lib.cli.stream.view import ending, failure_of, place_of

    for copy in copies:
        out().print(f"{copy} is a copy of {slide.slide_id}: the same bytes, the same slide.", soft_wrap=True)
    failure = failure_of(slide)
    if failure:
        _say_failed(slide.slide_id, failure)
        return
    out().print(slide.slide_id, style="bold", end=": ", soft_wrap=True)
    out().print(ending(slide), soft_wrap=True)
    if slide.draft:
        out().print(f"  {place_of(store, slide.draft.page_key)}", soft_wrap=True)


def _say_failed(slide: str, failure: Failure | None) -> None:
    say_heading(slide)
    if failure:
        say_error(failure)


def _to_dict(one: Submission, store: ObjectStore) -> dict[str, Any]:
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
