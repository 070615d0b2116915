"""`histgen search`: the cases that look, or read, like a slide, a region of it, or words."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from histgen_lib.cli.output import JsonFlag, emit_json, err, number_of, out
from histgen_lib.cli.stream.options import Home
from histgen_lib.errors import InvalidInputError
from histgen_lib.names import printable

_OLD_S = 60.0


def search(
    *,
    slide: Annotated[
        str | None, typer.Option("--slide", metavar="ID", help="Find what is like this slide.")
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(
            "--region", metavar="X,Y,W,H", help="Only like this box of the slide, in pixels of its level 0."
        ),
    ] = None,
    text: Annotated[
        str | None, typer.Option("--text", metavar="WORDS", help="Find what these words describe.")
    ] = None,
    find: Annotated[
        Literal["cases", "reports"],
        typer.Option("--find", help="Compare with pictures (cases), or with what was written (reports)."),
    ] = "cases",
    organ: Annotated[
        str | None, typer.Option("--organ", metavar="NAME", help="Only cases whose report states this organ.")
    ] = None,
    stain: Annotated[str | None, typer.Option("--stain", metavar="NAME", help="Only this stain.")] = None,
    site: Annotated[str | None, typer.Option("--site", metavar="NAME", help="Only this site.")] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="DAY", help="Only scans of this day (YYYY-MM-DD) or later."),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="DAY", help="Only scans of this day or earlier.")
    ] = None,
    signed: Annotated[bool, typer.Option("--signed", help="Only reports that a person signed.")] = False,
    count: Annotated[int, typer.Option("--count", "-n", metavar="N", help="How many cases.")] = 10,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            metavar="URL",
            help="URL of a remote search service. Default: that of the stack in the folder, else "
            "$HISTGEN_SEARCH.",
        ),
    ] = None,
    home: Home = None,
    index: Annotated[
        str | None,
        typer.Option(
            "--index",
            metavar="DIR",
            help="Search this index in this process, without a stack: a folder, or s3://bucket/prefix. Takes "
            "--model.",
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", metavar="DIR", help="With --index: the model that filled the index."),
    ] = None,
    bag: Annotated[
        Path | None,
        typer.Option("--bag", metavar="FILE", help="With --index: features of the slide to ask about."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Find cases like a slide, like a region of it, or as words describe them.

    Each hit shows which regions are alike: the box here, and the box there. The slide's own case is never
    among the hits.

    For example:

      histgen search --slide case-7-a

      histgen search --slide case-7-a --region 2048,1024,512,512 --signed

      histgen search --text "poorly differentiated, signet ring cells" --organ Stomach --find reports

      histgen search --index out/index --model out/model --bag out/case-7-a.parquet
    """
    asked: dict[str, object] = {
        "slide": slide,
        "text": text,
        "region": region,
        "find": find,
        "organ": organ,
        "stain": stain,
        "site": site,
        "since": since,
        "until": until,
        "signed": signed or None,
        "count": count,
    }
    asked = {name: value for name, value in asked.items() if value is not None}
    answer = _in_process(asked, index, model, bag) if index or bag else _asked(asked, url, home)
    if as_json:
        emit_json(answer)
    else:
        _print(answer)


def _asked(asked: Mapping[str, object], url: str | None, home: Path | None) -> dict[str, Any]:
    from histgen_lib.client.searching import find_search_service

    return find_search_service(url, home, os.environ).search(asked)


def _in_process(
    asked: Mapping[str, object], index: str | None, model: Path | None, bag: Path | None
) -> dict[str, Any]:
    """Search an index in this process. Raises as `Searcher.answer`, and what opening index or bag raises."""
    if index is None or model is None:
        raise InvalidInputError(
            "search-incomplete",
            "A search without a stack takes an index and a model.",
            hint="Give --index and --model; leave --bag and --index out to ask a running stack.",
        )
    from histgen_lib.bags import read_bag
    from histgen_lib.retrieval.answers import answer_json
    from histgen_lib.retrieval.local import open_local
    from histgen_lib.retrieval.questions import read_question

    opened = read_bag(bag) if bag else None
    if opened and not asked.get("slide"):
        asked = {**asked, "slide": opened.slide_id}
    with open_local(index, model, opened) as searcher:
        return answer_json(searcher.answer(read_question(asked)))


def _print(answer: Mapping[str, Any]) -> None:
    state = answer["index"]
    if not answer["hits"]:
        out().print(f"No case was found among {number_of(state['cases'], 'case')}.")
    for place, hit in enumerate(answer["hits"], 1):
        _print_hit(place, hit)
    if state["behind_s"] > _OLD_S:
        err().print(
            f"The index was last known to be current {state['behind_s']:.0f} s ago: its storage is away.",
            style="yellow",
        )


def _print_hit(place: int, hit: Mapping[str, Any]) -> None:
    report = hit["report"]
    name = f"{hit['slide_id']} (case {hit['case_id']})" if hit["case_id"] else hit["slide_id"]
    summary = report["diagnosis"] or report["text"].partition("\n")[0]
    facts = [report["organ"], hit["stain"], hit["site"], hit["date"]]
    facts += ["signed" if report["signed"] else "draft", "synthetic" if report["synthetic"] else ""]
    out().print(f"{place:>3}  {hit['score']:.3f}  ", end="")
    out().print(printable(name), style="bold", end="  ", soft_wrap=True)
    out().print(printable(summary), end="", soft_wrap=True)
    out().print(f"  ({', '.join(printable(fact) for fact in facts if fact)})", style="dim", soft_wrap=True)
    for pair in hit["pairs"]:
        here = _box(pair["here"]) if pair["here"] else f'"{printable(pair["words"] or "the text")}"'
        line = f"       {pair['similarity']:.3f}  {here} ↔ {_box(pair['there'])}"
        out().print(line, style="dim", soft_wrap=True)


def _box(sides: list[int]) -> str:
    return ",".join(map(str, sides))
