"""`histgen verify`: is every object in the store what was written? What is not can be written again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histgen_lib.cli.output import JsonFlag, emit_json, err, out
from histgen_lib.cli.stream_options import Bus, Home, Store, StoreEndpoint, reach
from histgen_lib.errors import InvalidInputError
from histgen_lib.names import printable

if TYPE_CHECKING:
    from histgen_lib.catalogue.integrity import Damage
    from histgen_lib.catalogue.repair import Repaired
    from histgen_lib.catalogue.verification import Verification
    from histgen_lib.client.connection import Connection
    from histgen_lib.storage import ObjectStore

DAMAGED = 1
_TELL_S = 1.0


def verify(
    *,
    repair: Annotated[
        bool, typer.Option("--repair", help="Have what is damaged written again, once all was looked at.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --repair: only say what would be done.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew, instead of going on where the last one stopped.")
    ] = False,
    metrics: Annotated[
        Path | None,
        typer.Option(
            "--metrics", metavar="FILE.prom", help="Write metrics for node-exporter's textfile collector."
        ),
    ] = None,
    home: Home = None,
    store: Store = None,
    store_endpoint: StoreEndpoint = None,
    bus: Bus = None,
    as_json: JsonFlag = False,
) -> None:
    """Look whether every object in the store is what was written, beside a running stack or without one.

    Reads the whole store. Stopped and started again, it goes on where it was. What is damaged stands in
    histgen status from then on. Ends with 0 if all is well, with 1 if something is damaged; with --repair,
    with 1 if something cannot be written again. Slides whose report or bag is damaged are announced again:
    the same bytes lie there again when the stack has worked on them.

    For example:

      histgen verify

      histgen verify --repair

      histgen verify --store s3://lab/histgen --metrics /var/lib/node_exporter/histgen.prom --json
    """
    from histgen_lib.catalogue.verification import Verification

    if dry_run and not repair:
        raise InvalidInputError(
            "verify-contradictory",
            "Without --repair nothing is written again, so there is nothing to try out.",
            hint="Leave --dry-run out, or give --repair, too.",
        )
    connection = reach(home, store=store, store_endpoint=store_endpoint, bus=bus)
    opened = connection.store()
    verification = Verification(opened, anew=restart)
    damages = _look(connection, opened, verification, as_json=as_json)
    if metrics:
        _write_metrics(metrics, verification)
    repaired = list(_repair(connection, opened, dry_run=dry_run, as_json=as_json)) if repair else []
    if as_json:
        emit_json(_to_dict(verification, damages, repaired if repair else None, dry_run=dry_run))
    else:
        _say_summary(verification, repaired if repair else None)
    bad = any(not one.done for one in repaired) if repair and not dry_run else bool(damages)
    raise typer.Exit(DAMAGED if bad else 0)


def _look(
    connection: Connection, store: ObjectStore, verification: Verification, *, as_json: bool
) -> list[Damage]:
    """Verify to the end; return all that is damaged, also what an earlier start has found."""
    from histgen_lib.catalogue.case import slides_of
    from histgen_lib.catalogue.integrity import noted_damage

    if verification.resumed:
        err().print(f"Going on behind {printable(verification.progress.after)}.", soft_wrap=True)
    with _progress(verification) as tell:
        for found in verification.run():
            if found:
                connection.tell_index(slides_of(store, {damage.owner for damage in found}))
            for damage in found if not as_json else ():
                out().print(f"damaged: {printable(str(damage))}", style="red", soft_wrap=True)
            tell()
    connection.tell_index(slides_of(store, verification.healed))
    return list(noted_damage(store))


@contextmanager
def _progress(verification: Verification) -> Iterator[Any]:
    """Show how far it is, where somebody looks on."""
    with err().status("Reading the store …") as shown:
        told_at = time.monotonic()

        def tell() -> None:
            nonlocal told_at
            if time.monotonic() - told_at >= _TELL_S:
                told_at = time.monotonic()
                shown.update(f"{_counts(verification)}; now {printable(verification.progress.after)}")

        yield tell


def _repair(
    connection: Connection, store: ObjectStore, *, dry_run: bool, as_json: bool
) -> Iterator[Repaired]:
    from histgen_lib.bus import open_publisher
    from histgen_lib.catalogue.case import slides_of
    from histgen_lib.catalogue.repair import Repair

    with ExitStack() as held:
        publisher = None if dry_run else held.enter_context(closing(open_publisher(connection.need_bus())))
        for repaired in Repair(store, publisher).run():
            if not dry_run:
                connection.tell_index(slides_of(store, [repaired.damage.owner]))
            if not as_json:
                _say(repaired, dry_run=dry_run)
            yield repaired


def _say(repaired: Repaired, *, dry_run: bool) -> None:
    from histgen_lib.catalogue.repair import ANNOUNCED

    key, verb = printable(repaired.damage.key), "would be" if dry_run else "is"
    if not repaired.done:
        out().print(f"{key}: cannot be written again. {repaired.hint}", style="yellow", soft_wrap=True)
    elif repaired.done == ANNOUNCED:
        out().print(f"{key}: its slide {verb} announced again, and worked on where needed", soft_wrap=True)
    else:
        out().print(f"{key}: {verb} written again", soft_wrap=True)


def _say_summary(verification: Verification, repaired: list[Repaired] | None) -> None:
    tally = verification.tally
    said = f"{_counts(verification)} in {verification.progress.seconds:.0f} s"
    if tally.undigested:
        said += (
            f"; of {tally.undigested:,} an earlier version did not write down what they hold: of these it is "
            "only known that they can be read"
        )
    out().print(said, style="bold", soft_wrap=True)
    if tally.damaged and repaired is None:
        out().print("→ histgen verify --repair has them written again.", soft_wrap=True)


def _counts(verification: Verification) -> str:
    tally = verification.tally
    damaged = sum(tally.damaged.values())
    return f"{tally.objects:,} objects, {tally.size_bytes / 2**20:,.1f} MiB, {damaged:,} damaged"


def _write_metrics(path: Path, verification: Verification) -> None:
    from histgen_lib.catalogue.verification import KINDS
    from histgen_lib.telemetry.metrics import write_verification

    write_verification(path, finished_at=time.time(), kinds=KINDS, **verification.summary())


def _to_dict(
    verification: Verification, damages: list[Damage], repaired: list[Repaired] | None, *, dry_run: bool
) -> dict[str, Any]:
    from histgen_lib.catalogue.keys import ReportOwner

    done = {one.damage.key: one for one in repaired or ()}
    return {
        **verification.summary(),
        "resumed": verification.resumed,
        "dry_run": dry_run,
        "objects_damaged": [
            {
                "key": one.key,
                "kind": one.kind,
                "why": one.why,
                "slide_id": None if (whose := ReportOwner.named(one.owner)).is_case else whose.id or None,
                "case_id": whose.id if whose.is_case else None,
                "repair": (done[one.key].done or "impossible") if one.key in done else None,
                "hint": (done[one.key].hint or None) if one.key in done else None,
            }
            for one in damages
        ],
    }
