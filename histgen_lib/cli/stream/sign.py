"""`histgen sign` and `histgen withdraw`: what a person says about a report, through the gateway."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from histgen_lib.cli.output import JsonFlag, emit_json, number_of, out
from histgen_lib.cli.stream.options import Gateway, Home, reach
from histgen_lib.errors import InvalidInputError

SlideArgument = Annotated[str | None, typer.Argument(metavar="[SLIDE]", help="The slide's id.")]
CaseOption = Annotated[
    str | None, typer.Option("--case", metavar="CASE", help="The case's id: the one report of its slides.")
]


def sign(
    slide: SlideArgument = None,
    *,
    case: CaseOption = None,
    text: Annotated[
        Path | None,
        typer.Option(
            "--text",
            metavar="FILE",
            help="The report as it is to stand; - reads it from stdin. Default: the draft.",
        ),
    ] = None,
    report: Annotated[
        str | None,
        typer.Option("--report", metavar="DIGEST", help="The draft that was read. Default: the latest."),
    ] = None,
    stain: Annotated[str, typer.Option("--stain", metavar="NAME", help="The stain, for searches.")] = "",
    site: Annotated[str, typer.Option("--site", metavar="NAME", help="The site, for searches.")] = "",
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="The slide was drawn by a computer: no draft is to show it.")
    ] = False,
    reinstate: Annotated[
        bool, typer.Option("--reinstate", help="The case was withdrawn, and is to be found again.")
    ] = False,
    gateway: Gateway = None,
    home: Home = None,
    as_json: JsonFlag = False,
) -> None:
    """Sign a report, as it was drafted or with a text of your own.

    A signed case can be shown beside later drafts. Signing again replaces what was signed before. The token
    needs the scope "operate"; who signed is in histgen audit.

    For example:

      histgen sign S-17

      histgen sign --case C-4 --text report.txt --stain HE
    """
    body: dict[str, object] = {
        **_whose(slide, case),
        "text": _read(text),
        "report_digest": report,
        "stain": stain,
        "site": site,
        "synthetic": synthetic,
        "reinstate": reinstate,
    }
    answer = _posted("/signatures", {k: v for k, v in body.items() if v}, gateway, home)
    if as_json:
        emit_json(answer)
    else:
        out().print(f"{_named(answer)} is signed ({answer['report_digest'][:12]}).", soft_wrap=True)


def withdraw(
    slide: SlideArgument = None,
    *,
    case: CaseOption = None,
    reason: Annotated[str, typer.Option("--reason", metavar="WORDS", help="Why; kept with the record.")] = "",
    gateway: Gateway = None,
    home: Home = None,
    as_json: JsonFlag = False,
) -> None:
    """Withdraw all reports of a slide or case: no search finds it, and no later draft shows it.

    It is gone from searches within a minute, and its vectors from storage once the index is compacted, which
    the librarian does at once. Drafts that already show it keep their bytes; they are listed. The scope is
    "operate". Only histgen sign --reinstate ends a withdrawal.

    For example:

      histgen withdraw S-17 --reason "wrong patient"
    """
    body = {**_whose(slide, case), **({"reason": reason} if reason else {})}
    answer = _posted("/withdrawals", body, gateway, home)
    if as_json:
        emit_json(answer)
        return
    out().print(f"{_named(answer)} is withdrawn.", soft_wrap=True)
    if citing := answer["citing"]:
        verb = "shows" if len(citing) == 1 else "show"
        out().print(f"{number_of(len(citing), 'draft')} already {verb} it:", soft_wrap=True)
        for one in citing:
            out().print(f"  {one['owner']} ({one['report_digest'][:12]})", soft_wrap=True, highlight=False)


def _whose(slide: str | None, case: str | None) -> dict[str, object]:
    if (slide is None) == (case is None):
        raise InvalidInputError(
            "case-unstated",
            "Neither a slide nor a case is named, or both are.",
            hint="Give SLIDE, or --case CASE.",
        )
    return {"slide_id": slide} if slide is not None else {"case_id": case}


def _read(path: Path | None) -> str | None:
    if path is None:
        return None
    from histgen_lib.catalogue.sign_off import signed_text, unreadable_text
    from histgen_lib.files import decode_text

    try:
        text = decode_text(sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes())
    except (OSError, UnicodeDecodeError):
        raise unreadable_text(str(path)) from None
    return signed_text(text)


def _posted(page: str, body: Mapping[str, object], gateway: str | None, home: Path | None) -> dict[str, Any]:
    from histgen_lib.client.api import post_json
    from histgen_lib.client.connection import remote_gateway

    if gateway and home is None:
        return remote_gateway(gateway, os.environ).post(page, body)
    connection = reach(home, gateway=gateway)
    url = f"{connection.need_gateway().rstrip('/')}{page}"
    return post_json(url, body, connection.token(), ca_file=connection.ca_file)


def _named(answer: Mapping[str, Any]) -> str:
    from histgen_lib.catalogue.keys import ReportOwner

    name = str(ReportOwner.named(answer["owner"]))
    return f"{name[:1].upper()}{name[1:]}"
