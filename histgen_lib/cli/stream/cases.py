"""`histgen cases`: the case index as a whole; what the librarian does from case to case."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histgen_lib.cli.options import Model, model_folder
from histgen_lib.cli.output import JsonFlag, emit_json, err, number_of, out
from histgen_lib.cli.stream.options import Home, Store, StoreEndpoint, reach
from histgen_lib.errors import FatalError, InvalidInputError

if TYPE_CHECKING:
    from histgen_lib.retrieval import CaseIndex, IndexState
    from histgen_lib.retrieval.subjects import Network

app = typer.Typer(
    help="The index of cases that searches look in: build it anew, compact it, look at it.",
    no_args_is_help=True,
)

Index = Annotated[
    str | None,
    typer.Option(
        "--index",
        metavar="URL",
        help='Where the index is: a folder, or "s3://bucket/prefix". Default: $HISTGEN_CASE_INDEX, else '
        "that of the stack in the folder.",
    ),
]
_TOLD_S = 2.0


@app.command()
def state(
    *,
    index: Index = None,
    store_endpoint: StoreEndpoint = None,
    home: Home = None,
    as_json: JsonFlag = False,
) -> None:
    """Say what the index holds."""
    with _opened(index, store_endpoint, home) as opened:
        _show(opened.state(), as_json=as_json)


@app.command()
def compact(
    *,
    index: Index = None,
    store_endpoint: StoreEndpoint = None,
    home: Home = None,
    as_json: JsonFlag = False,
) -> None:
    """Drop what is withdrawn or replaced from the index's storage, and index what is new.

    The librarian does so after every withdrawal, and from time to time.
    """
    with _opened(index, store_endpoint, home) as opened:
        opened.compact()
        _show(opened.state(), as_json=as_json)


@app.command()
def rebuild(
    *,
    index: Index = None,
    model: Model = None,
    store: Store = None,
    store_endpoint: StoreEndpoint = None,
    home: Home = None,
    as_json: JsonFlag = False,
) -> None:
    """Build the index anew from the store, while the old one is searched; then switch to the new one.

    Run it after the retrieval network has changed, when the index is lost, and for drafts of before there was
    a librarian. The store is the truth: what is signed or withdrawn there is so in the index afterwards. If
    it is interrupted, the old index stays in use; start it again.

    For example:

      histgen cases rebuild --model models/ours
    """
    from histgen_lib.pipeline.shelve.rebuild import stored_entries

    network, objects = _network(model), reach(home, store=store, store_endpoint=store_endpoint).store()
    left_out = _LeftOut()
    with _opened(index, store_endpoint, home, new=True) as opened:
        found = opened.rebuild(
            network.digest, lambda: stored_entries(objects, network, left_out), progress=_Progress()
        )
    _show(found, as_json=as_json)
    left_out.exit()


@app.command("index")
def index_folder(
    *,
    bags: Annotated[Path, typer.Option("--bags", metavar="DIR", help="Folder of the slides' features.")],
    annotation: Annotated[
        Path, typer.Option("--annotation", metavar="FILE", help="The reports, as for histgen train.")
    ],
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the index.")],
    model: Model = None,
    splits: Annotated[
        list[str] | None,
        typer.Option("--split", metavar="NAME", help="train, val or test; repeat it. Default: train."),
    ] = None,
    synthetic: Annotated[bool, typer.Option("--synthetic", help="The slides are synthetic.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Index a folder of features with their reports, without a stack; search it with histgen search --index.

    For example:

      histgen cases index --bags out/bags --annotation out/annotation.json --model out/model --out out/index
    """
    from histgen_lib.bags import BAG_SUFFIXES
    from histgen_lib.pipeline.shelve.rebuild import folder_entries
    from histgen_lib.training.annotation import read_annotation
    from histgen_lib.training.matching import index_files, match_splits

    network, left_out = _network(model), _LeftOut()
    matched = match_splits(
        read_annotation(annotation), splits or ["train"], index_files(bags, BAG_SUFFIXES), allow_missing=True
    )
    cases = [(one.case.id, one.case.report, one.paths) for split in matched for one in split.found]
    with _opened(str(folder), None, None, new=True) as opened:
        found = opened.rebuild(
            network.digest,
            lambda: folder_entries(cases, network, left_out, synthetic=synthetic),
            progress=_Progress(),
        )
    _show(found, as_json=as_json)
    left_out.exit()


class _LeftOut:
    """Says which cases are left out, and ends the command with 1 if any are."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, case: str, error: InvalidInputError) -> None:
        self._count += 1
        err().print(f"{case} is left out: {error} [{error.code}]", soft_wrap=True, markup=False)

    def exit(self) -> None:
        """Raise typer.Exit(1) if any case was left out."""
        if self._count:
            err().print(f"{number_of(self._count, 'case')} left out.")
            raise typer.Exit(1)


@contextmanager
def _opened(
    index: str | None, endpoint: str | None, home: Path | None, *, new: bool = False
) -> Iterator[CaseIndex]:
    """Open an index. Raises InvalidInputError("case-index-missing"), unless it may be a `new` one."""
    from histgen_lib.client.home import StackHome, default_home
    from histgen_lib.retrieval import CaseIndexSettings, open_case_index
    from histgen_lib.retrieval.local import index_url
    from histgen_lib.secret import OWNER_ONLY
    from histgen_lib.storage import StorageSettings

    os.umask(OWNER_ONLY)
    folder = StackHome(home or default_home(os.environ)).folder / "case-index"
    named = index or (None if home else os.environ.get("HISTGEN_CASE_INDEX")) or str(folder)
    endpoint = endpoint or os.environ.get("HISTGEN_STORE_ENDPOINT") or None
    storage = StorageSettings(index_url(named, new=new), endpoint)
    with closing(open_case_index(CaseIndexSettings(storage))) as opened:
        yield opened


def _network(model: Path | None) -> Network:
    from histgen_lib.inference import open_inference
    from histgen_lib.models.folder import open_model_folder
    from histgen_lib.retrieval.subjects import network_of

    folder = open_model_folder(model_folder(model))
    network = network_of(folder, open_inference("onnx", folder.path))
    if network is None:
        raise FatalError(
            "model-without-retrieval",
            f"The model {folder.name} has no retrieval network, so it can fill no case index.",
            hint="Give --model a model folder that has one.",
        )
    return network


class _Progress:
    """Prints the count of slides now and then."""

    def __init__(self) -> None:
        self._told_at = time.monotonic()

    def __call__(self, count: int) -> None:
        if time.monotonic() - self._told_at > _TOLD_S:
            self._told_at = time.monotonic()
            err().print(f"{number_of(count, 'slide')} …", style="dim")


def _show(found: IndexState, *, as_json: bool) -> None:
    if as_json:
        emit_json(asdict(found))
        return
    held = f"{number_of(found.cases, 'case')}, {number_of(found.slides, 'slide')}"
    out().print(
        f"{held}, {number_of(found.regions, 'region')}; {found.size_bytes / 1e6:.1f} MB", soft_wrap=True
    )
    out().print(
        f"version {found.version}, model {found.model[:12] or 'none'}", soft_wrap=True, highlight=False
    )
    if found.organs:
        out().print(f"organs: {', '.join(found.organs)}", soft_wrap=True)
