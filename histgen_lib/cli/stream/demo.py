"""`histgen demo`: slides go into the watched folder of a stack; each ends as a draft or a dead letter."""

from __future__ import annotations

import filecmp
import json
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histgen_lib.cli.options import Model, model_folder
from histgen_lib.cli.output import JsonFlag, emit_json, err
from histgen_lib.cli.sources import expand
from histgen_lib.cli.stream.demo_results import print_results
from histgen_lib.cli.stream.options import server_places
from histgen_lib.errors import FatalError, TransientError

if TYPE_CHECKING:
    from histgen_lib.client.following import EndedSlide, Snapshot
    from histgen_lib.client.home import StackHome
    from histgen_lib.runtime.stopping import Stop
    from histgen_lib.stack.local import LocalStack
    from histgen_lib.stack.settings import StackSettings
    from histgen_lib.storage import ObjectStore


@dataclass(frozen=True)
class DemoSlide:
    """A slide for the demo; `truth` of one that was drawn."""

    path: Path
    slide_id: str
    truth: dict[str, Any] | None = None


def draw(world: Path, count: int, seed: int) -> list[DemoSlide]:
    """Draw slides into `world`; those that are there already are kept."""
    from histgen_lib.cli.progress import progress_bar
    from histgen_lib.synth import generate

    err().print(f"Drawing {count} slides that the model has never seen …", style="dim")
    with progress_bar("Drawing", "slides") as bar:
        annotation = generate(
            world, count, seed, split="test", progress=lambda done, total: bar("slides", done, total)
        )
    cases = json.loads(annotation.read_bytes())["test"][:count]
    truths = [json.loads((world / "truth" / f"{case['id']}.json").read_bytes()) for case in cases]
    return [
        DemoSlide(world / case["image_path"][0], case["id"], truth)
        for case, truth in zip(cases, truths, strict=True)
    ]


def given(slides: Sequence[str]) -> list[DemoSlide]:
    """Find the slides behind paths and globs; of several that are one to the gateway, the first."""
    from histgen_lib.names import slide_id_of
    from histgen_lib.slides.formats import SLIDE_SUFFIXES

    found = [path for path in expand(slides) if path.is_dir() or path.suffix.lower() in SLIDE_SUFFIXES]
    named: dict[str, DemoSlide] = {}
    for path in found:
        slide_id = slide_id_of(str(path))
        twin = named.get(slide_id) or next(
            (one for one in named.values() if _same_bytes(one.path, path)), None
        )
        if twin:
            err().print(f"{path} is left out: {twin.path} is called so, or is the same.", soft_wrap=True)
        else:
            named[slide_id] = DemoSlide(path, slide_id)
    return list(named.values())


def _same_bytes(one: Path, other: Path) -> bool:
    """Whether two slides are one to the gateway, whatever they are called."""
    return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)


def drop(slide: Path, inbox: Path) -> None:
    """Copy a slide with every file that belongs to it; its own file last, as scanners do."""
    from histgen_lib.slides.source import stored_in

    sidecars = [slide.with_name(f"{slide.name}.json"), slide.with_suffix(".json")]
    parts = [*(part for part in stored_in(slide) if part != slide), *sidecars, slide]
    for part in parts:
        if part.is_file():
            target = inbox / part.relative_to(slide.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            arriving = target.with_name(f"{target.name}.part")
            shutil.copyfile(part, arriving)
            arriving.replace(target)


UNSEEN_SEED = 2026_11
"""Never used in training: the demo model has not seen these slides."""

LOOK_S = 0.5
_STILL_S = 180.0
_ENVIRONMENT = (
    ("HISTGEN_SETTLE_S", "1"),
    ("HISTGEN_LOOK_S", "0.5"),
    ("HISTGEN_DEADLINE_S", "300"),
    ("HISTGEN_MAX_ATTEMPTS", "2"),
)
"""Files appear whole here, and nothing may keep a demo waiting."""


def demo(
    *,
    out_dir: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for slides, drafts and logs.")
    ] = Path("out/demo"),
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many slides to draw.")] = 4,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the slides.")] = UNSEEN_SEED,
    slides: Annotated[
        list[str] | None,
        typer.Option(
            "--slides", metavar="PATH", help="Further slides: files, folders, globs; may be repeated."
        ),
    ] = None,
    broker: Annotated[
        str, typer.Option("--broker", help="embedded, kafka, or kafka://host:port.")
    ] = "embedded",
    inference: Annotated[
        str, typer.Option("--inference", help="auto, onnx, triton, or triton://host:port.")
    ] = "auto",
    model: Model = None,
    as_json: JsonFlag = False,
) -> None:
    """Run the whole stream once: draw slides, start the stack, put them into its watched folder.

    Each ends as a draft or a dead letter; beside the draft of a drawn slide stands the ground truth. The
    stack lives in DIR/stack, and what an earlier demo left there is replaced.

    For example:

      histgen demo --out out/demo --count 6

      histgen demo --slides ../scans --broker kafka
    """
    from histgen_lib.stack.settings import StackSettings
    from histgen_lib.storage import StorageSettings, open_store

    home = _fresh_home(out_dir / "stack")
    dropped = [*draw(out_dir / "world", count, seed), *given(slides or [])]
    kafka_libs, triton_home = server_places()
    settings = StackSettings(
        home=home.folder,
        model=model_folder(model),
        broker=broker,
        inference=inference,
        environment=_ENVIRONMENT,
        kafka_libs=kafka_libs,
        triton_home=triton_home,
    )
    store = open_store(StorageSettings(settings.store_url))
    ends, ready_s, seconds = _run(settings, store, dropped)
    rows = [_row(slide, ends[slide.slide_id], store) for slide in dropped]
    summary = {**_summary(ends, seconds), "ready_seconds": round(ready_s, 1), "home": str(out_dir / "stack")}
    if as_json:
        emit_json({"slides": rows, "summary": summary})
    else:
        print_results(rows, summary)


def _fresh_home(folder: Path) -> StackHome:
    """Remove what an earlier demo left; a folder that no demo made is left alone."""
    from histgen_lib.client.home import StackHome

    home = StackHome(folder)
    if home.folder.exists() and not home.running():
        if not home.lived_in and any(home.folder.iterdir()):
            raise FatalError(
                "demo-output",
                f"{home.folder} holds something that no demo left there.",
                hint="Choose another --out folder, or remove it.",
            )
        shutil.rmtree(home.folder)
    return home


def _run(
    settings: StackSettings, store: ObjectStore, dropped: Sequence[DemoSlide]
) -> tuple[dict[str, EndedSlide], float, float]:
    """Run the stack until each slide has ended; return the ends, and how long it took to start and to end."""
    from histgen_lib.runtime.stopping import Stop, Stopped, stopped_by_signals
    from histgen_lib.stack.local import LocalStack

    began = time.monotonic()
    with stopped_by_signals(Stop()) as stop, err().status("Starting the stack …") as status:
        try:
            with LocalStack(settings, stop=stop) as stack:
                stack.wait_ready()
                status.stop()
                ready_s, began = time.monotonic() - began, time.monotonic()
                _say_ready(stack, ready_s)
                ends = _follow(stack, store, dropped, stop)
                seconds = time.monotonic() - began
        except Stopped:
            err().print("Stopped before every slide had ended.")
            raise typer.Exit(stop.exit_code) from None
    return ends, ready_s, seconds


def _say_ready(stack: LocalStack, seconds: float) -> None:
    record, note = stack.record, stack.inference.note if stack.inference else ""
    text = f"The stack is ready after {seconds:.1f} s: {record.gateway}; broker {record.bus}; {note}."
    err().print(text, style="dim", soft_wrap=True)


def _follow(
    stack: LocalStack, store: ObjectStore, dropped: Sequence[DemoSlide], stop: Stop
) -> dict[str, EndedSlide]:
    """Drop the slides and watch until each has ended. Raises Stopped."""
    from rich.live import Live

    from histgen_lib.cli.stream.view import LiveView, say_ended
    from histgen_lib.client.following import Follower, StorePoller

    follower, console = Follower(StorePoller(store), stack.home.run_dir), err()
    follower.look()
    for slide in dropped:
        drop(slide.path, stack.settings.inbox)
    console.print(
        f"{len(dropped)} slides are in the watched folder {stack.settings.inbox}.",
        style="dim",
        soft_wrap=True,
    )
    wanted, ends = {slide.slide_id for slide in dropped}, dict[str, Any]()
    view = LiveView()
    live = Live(console=console, auto_refresh=False, transient=True)
    with live if console.is_terminal else _Still():
        patience = _Patience()
        while not wanted <= ends.keys():
            stack.check()
            stop.check()
            picture = follower.look()
            patience.judge(picture, wanted - ends.keys())
            for ended in picture.news:
                ends[ended.slide.slide_id] = ended
                say_ended(console, ended)
            if console.is_terminal:
                live.update(view.draw(picture), refresh=True)
            stop.wait(LOOK_S)
    return ends


class _Patience:
    """Waits for slides as long as something happens."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def judge(self, picture: Snapshot, waiting: set[str]) -> None:
        """Raise TransientError("demo-stuck") when nothing has happened for minutes."""
        if picture.news or picture.busy:
            self._since = time.monotonic()
        elif time.monotonic() - self._since > _STILL_S:
            raise TransientError(
                "demo-stuck",
                f"Nothing happens, and these slides have not ended: {', '.join(sorted(waiting))}.",
                hint="The logs of the demo's stack say why; histgen doctor checks the installation.",
            )


class _Still:
    """Draws nothing."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def _row(slide: DemoSlide, ended: EndedSlide, store: ObjectStore) -> dict[str, Any]:
    from histgen_lib.cli.stream.view import failure_of, place_of

    draft, failure = ended.slide.draft, failure_of(ended.slide)
    fields = draft.fields if draft else {}
    true = slide.truth["fields"] if slide.truth else {}
    return {
        "slide_id": slide.slide_id,
        "path": str(slide.path),
        "seconds": round(ended.seconds, 1),
        "report": slide.truth and slide.truth["report"],
        "draft": draft and draft.text,
        "abstained": draft and draft.abstained,
        "out_of_distribution": draft and draft.out_of_distribution,
        "confidence": draft and draft.confidence,
        "right": sum(fields.get(name) == value for name, value in true.items()),
        "fields": len(true),
        "page": draft and place_of(store, draft.page_key),
        "error": failure and failure.to_dict(),
    }


def _summary(ends: dict[str, EndedSlide], seconds: float) -> dict[str, Any]:
    drafts = [ended.seconds for ended in ends.values() if ended.slide.draft]
    return {
        "drafts": len(drafts),
        "dead_letters": len(ends) - len(drafts),
        "seconds": round(seconds, 1),
        "slides_per_minute": round(60 * len(ends) / seconds, 1),
        "scan_to_draft_p50_s": round(statistics.median(drafts), 1) if drafts else None,
        "scan_to_draft_max_s": round(max(drafts), 1) if drafts else None,
    }
