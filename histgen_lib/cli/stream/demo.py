"""`histgen demo`: slides go into the watched folder of a stack; each ends in a draft or a dead letter."""

from __future__ import annotations

import filecmp
import json
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histgen_lib.cli.options import Model, expand, model_folder
from histgen_lib.cli.output import JsonFlag, emit_json, err, number_of
from histgen_lib.cli.stream.demo_results import DemoSlide, Result, Summary, Truth, print_results
from histgen_lib.cli.stream.options import server_places
from histgen_lib.errors import FatalError, TransientError

if TYPE_CHECKING:
    from histgen_lib.client.following import EndedSlide, Snapshot
    from histgen_lib.client.home import StackHome
    from histgen_lib.runtime.stopping import Stop
    from histgen_lib.stack.local import LocalStack
    from histgen_lib.stack.settings import StackSettings
    from histgen_lib.storage import ObjectStore

UNSEEN_SEED = 2026_11
"""Never used in training: the demo model has not seen these slides."""

_POLL_S = 0.5
_STUCK_S = 180.0
_ENVIRONMENT = (
    ("HISTGEN_SETTLE_S", "1"),
    ("HISTGEN_LOOK_S", "0.5"),
    ("HISTGEN_DEADLINE_S", "300"),
    ("HISTGEN_MAX_ATTEMPTS", "2"),
)
"""Files appear whole here, and a demo should not have to wait."""


def demo(
    *,
    out_dir: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for slides, drafts and logs.")
    ] = Path("out/demo"),
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Number of slides to draw.")] = 4,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the drawn slides.")] = UNSEEN_SEED,
    slides: Annotated[
        list[str] | None,
        typer.Option("--slides", metavar="PATH", help="More slides: files, folders, globs. Can be repeated."),
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
    """Run the whole stream once: draw slides, start a stack, and put the slides into its watched folder.

    Each ends in a draft or a dead letter. Drafts of drawn slides are shown beside the ground truth. The stack
    lives in DIR/stack; that of an earlier demo is replaced.

    For example:

      histgen demo --out out/demo --count 6

      histgen demo --slides ../scans --broker kafka
    """
    from histgen_lib.stack.settings import StackSettings
    from histgen_lib.storage import StorageSettings, open_store

    home = _fresh_home(out_dir / "stack")
    demo_slides = [*_draw(out_dir / "world", count, seed), *_chosen(slides or [])]
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
    ends, ready_s, seconds = _run(settings, store, demo_slides)
    results = [_result(slide, ends[slide.slide_id], store) for slide in demo_slides]
    summary = Summary.of(list(ends.values()), seconds=seconds, ready_s=ready_s, home=str(out_dir / "stack"))
    if as_json:
        emit_json({"slides": [one.to_dict() for one in results], "summary": vars(summary)})
    else:
        print_results(results, summary)


def _draw(world: Path, count: int, seed: int) -> list[DemoSlide]:
    """Draw slides into `world`; those that are there already are kept."""
    from histgen_lib.cli.progress import progress_bar
    from histgen_lib.synth import generate

    err().print(f"Drawing {number_of(count, 'slide')} that the model has never seen …", style="dim")
    with progress_bar("Drawing", "slides") as bar:
        annotation = generate(
            world, count, seed, split="test", progress=lambda done, total: bar("slides", done, total)
        )
    cases = json.loads(annotation.read_bytes())["test"][:count]
    return [
        DemoSlide(world / case["image_path"][0], case["id"], _truth_of(world, case["id"])) for case in cases
    ]


def _truth_of(world: Path, slide_id: str) -> Truth:
    values = json.loads((world / "truth" / f"{slide_id}.json").read_bytes())
    return Truth(values["report"], values["fields"])


def _chosen(slides: Sequence[str]) -> list[DemoSlide]:
    """Find the slides behind paths and globs; keep the first of those that the gateway takes for one."""
    from histgen_lib.names import slide_id_of
    from histgen_lib.slides.formats import SLIDE_SUFFIXES

    found = [path for path in expand(slides) if path.is_dir() or path.suffix.lower() in SLIDE_SUFFIXES]
    chosen: dict[str, DemoSlide] = {}
    for path in found:
        slide_id = slide_id_of(str(path))
        twin = chosen.get(slide_id) or next(
            (one for one in chosen.values() if _same_bytes(one.path, path)), None
        )
        if twin:
            err().print(f"{path} is left out: {twin.path} has the same name or content.", soft_wrap=True)
        else:
            chosen[slide_id] = DemoSlide(path, slide_id)
    return list(chosen.values())


def _same_bytes(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)


def _drop(slide: Path, inbox: Path) -> None:
    """Copy a slide with all files that belong to it; its own file last, as scanners do."""
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


def _fresh_home(folder: Path) -> StackHome:
    """Remove the stack of an earlier demo; leave a folder alone that no demo made."""
    from histgen_lib.client.home import StackHome

    home = StackHome(folder)
    if home.folder.exists() and not home.running():
        if not home.lived_in and any(home.folder.iterdir()):
            raise FatalError(
                "demo-output",
                f"{home.folder} holds files that no demo left there.",
                hint="Choose another --out folder, or remove it.",
            )
        shutil.rmtree(home.folder)
    return home


def _run(
    settings: StackSettings,
    store: ObjectStore,
    slides: Sequence[DemoSlide],
    clock: Callable[[], float] = time.monotonic,
) -> tuple[dict[str, EndedSlide], float, float]:
    """Run the stack until every slide has ended; return the ends, and the seconds of start and run."""
    from histgen_lib.runtime.stopping import Stop, Stopped, stopped_by_signals
    from histgen_lib.stack.local import LocalStack

    began = clock()
    with stopped_by_signals(Stop()) as stop, err().status("Starting the stack …") as status:
        try:
            with LocalStack(settings, stop=stop) as stack:
                stack.wait_ready()
                status.stop()
                ready_s, began = clock() - began, clock()
                _print_ready(stack, ready_s)
                ends = _follow(stack, store, slides, stop)
                seconds = clock() - began
        except Stopped:
            err().print("Stopped before every slide had ended.")
            raise typer.Exit(stop.exit_code) from None
    return ends, ready_s, seconds


def _print_ready(stack: LocalStack, seconds: float) -> None:
    record, note = stack.record, stack.inference.note if stack.inference else ""
    text = f"The stack is ready after {seconds:.1f} s: {record.gateway}; broker {record.bus}; {note}."
    err().print(text, style="dim", soft_wrap=True)


def _follow(
    stack: LocalStack, store: ObjectStore, slides: Sequence[DemoSlide], stop: Stop
) -> dict[str, EndedSlide]:
    """Put the slides into the watched folder, and watch until each has ended. Raises Stopped."""
    from rich.live import Live

    from histgen_lib.cli.stream.view import LiveView, print_ended
    from histgen_lib.client.following import Follower, StorePoller

    follower, console = Follower(StorePoller(store), stack.home.run_dir), err()
    follower.poll()
    for slide in slides:
        _drop(slide.path, stack.settings.inbox)
    text = f"Slides put into the watched folder {stack.settings.inbox}: {len(slides)}."
    console.print(text, style="dim", soft_wrap=True)
    expected = {slide.slide_id for slide in slides}
    ends: dict[str, EndedSlide] = {}
    view, watchdog = LiveView(), _Watchdog()
    live = Live(console=console, auto_refresh=False, transient=True)
    with live if console.is_terminal else nullcontext():
        while not expected <= ends.keys():
            stack.check()
            stop.check()
            snapshot = follower.poll()
            watchdog.check(snapshot, expected - ends.keys())
            for ended in snapshot.news:
                ends[ended.slide.slide_id] = ended
                print_ended(console, ended)
            if console.is_terminal:
                live.update(view.render(snapshot), refresh=True)
            stop.wait(_POLL_S)
    return ends


class _Watchdog:
    """Notices that nothing happens any more. `clock`: monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._since = clock, clock()

    def check(self, snapshot: Snapshot, waiting: set[str]) -> None:
        """Raise TransientError("demo-stuck") if nothing has happened for minutes."""
        if snapshot.news or snapshot.busy:
            self._since = self._clock()
        elif self._clock() - self._since > _STUCK_S:
            raise TransientError(
                "demo-stuck",
                f"Nothing is happening, and these slides have not ended: {', '.join(sorted(waiting))}.",
                hint="The logs of the demo's stack say why; histgen doctor checks the installation.",
            )


def _result(slide: DemoSlide, ended: EndedSlide, store: ObjectStore) -> Result:
    from histgen_lib.cli.stream.view import failure_of, place_of

    draft = ended.slide.draft
    page = place_of(store, draft.page_key) if draft else None
    return Result(slide, round(ended.seconds, 1), draft, page, failure_of(ended.slide))
