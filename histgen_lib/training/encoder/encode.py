"""Encoding slides in bulk: for each slide of a folder a bag by each encoder, resumable.

A slide that already has a bag by the same encoder and tiles is not encoded again; a slide that cannot be read
does not stop the others and is listed at the end. On CPUs every core has a process with its own networks; a
GPU is fed by this process, in which several slides are read at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path

import torch

from histgen_lib.access import finding
from histgen_lib.cores import cores
from histgen_lib.errors import FatalError, HistgenError, InvalidInputError
from histgen_lib.models.devices import torch_device
from histgen_lib.models.serving import Compute
from histgen_lib.names import place_in, safe_id, slide_id_of
from histgen_lib.pipeline.scan.torch_encoder import TorchEncoder
from histgen_lib.processes import process_pool
from histgen_lib.training.encoder.slide_bags import Outcome, Place, Work, encode_slide
from histgen_lib.training.encoder.source import EncoderChoice, OpenedEncoder
from histgen_lib.training.tracking import TrainProgress

_READING_THREADS = 4
"""Cores that one slide's tiles keep busy; see `histgen_lib.slides.reading`."""

Encode = Callable[[Path], Outcome]


@dataclass(frozen=True)
class EncodeSettings:
    """What to encode with which encoders.

    slides    folders or single files
    encoders  each gets its own bags
    out       gets <slide_id>.parquet; with several encoders <encoder's name>/<slide_id>.parquet
    mpp       overrides the slides' resolution
    workers   processes, one thread each (0: one per core); on a GPU the slides that are read at a time
    compute   what the encoders run on
    """

    slides: Sequence[Path]
    encoders: Sequence[EncoderChoice]
    out: Path
    mpp: float | None = None
    workers: int = 0
    compute: Compute = field(default_factory=Compute)


@dataclass
class Encoded:
    """One encoder's bags: where they are, how many were written, and how many were there already."""

    place: Place
    written: int = 0
    kept: int = 0


@dataclass
class EncodeResult:
    """The bags of each encoder, and (slide, reason) for slides that could not be encoded."""

    encoders: tuple[Encoded, ...]
    failed: list[tuple[Path, HistgenError]] = field(default_factory=list)

    @property
    def written(self) -> int:
        """Number of bags written, of all encoders."""
        return sum(one.written for one in self.encoders)

    @property
    def kept(self) -> int:
        """Number of bags that were there already, of all encoders."""
        return sum(one.kept for one in self.encoders)


@dataclass(frozen=True)
class _Plan:
    """What a process needs to encode any slide."""

    encoders: tuple[EncoderChoice, ...]
    places: tuple[Place, ...]
    mpp: float | None
    compute: Compute


def encode_slides(settings: EncodeSettings, *, quiet: bool = False) -> EncodeResult:
    """Encode every slide.

    InvalidInputError: "training-slides-missing" if there is none, "training-slides-same-name" if two
    would share a bag, "encoders-same-name" if two encoders would share a folder. FatalError:
    "training-worker-died", "device-unavailable", "device-memory", and what `EncoderChoice.open` raises.
    """
    slides = find_slides(settings.slides)
    if not slides:
        names = ", ".join(str(path) for path in settings.slides)
        raise InvalidInputError(
            "training-slides-missing",
            f"There are no slides in {names}.",
            hint=f"Check the path; file names of slides end in {finding.looked_for()}.",
        )
    _require_own_names(slides)
    torch_device(settings.compute.device)
    opened = [choice.open() for choice in settings.encoders]
    plan = _Plan(tuple(settings.encoders), _places(opened, settings.out), settings.mpp, settings.compute)
    result = EncodeResult(tuple(map(Encoded, plan.places)))
    workers, encode = _workers(settings, plan, opened, len(slides))
    del opened  # processes load networks for themselves
    with workers as pool, TrainProgress("encode", len(slides), quiet=quiet) as progress:
        try:
            for path, outcome in zip(slides, pool.map(encode, slides), strict=True):
                _count(result, path, outcome)
                progress.advance(1, path.name)
        except BrokenProcessPool as error:
            raise FatalError(
                "training-worker-died",
                "A process that encodes slides was killed, most likely because memory ran out.",
                hint="Run the command again with fewer --workers; finished bags are kept.",
            ) from error
    return result


def _workers(
    settings: EncodeSettings, plan: _Plan, opened: Sequence[OpenedEncoder], slides: int
) -> tuple[AbstractContextManager[Executor], Encode]:
    """Return what runs the work, and the work on one slide."""
    if settings.compute.device == "cpu":
        processes = min(settings.workers or cores(), slides)
        return process_pool(processes), partial(_in_process, plan)
    works = _works(plan, opened)
    readers = min(settings.workers or max(2, cores() // _READING_THREADS), slides)
    return _threads(readers), partial(encode_slide, works=works, mpp=plan.mpp)


@contextmanager
def _threads(count: int) -> Iterator[Executor]:
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _in_process(plan: _Plan, path: Path) -> Outcome:
    """Encode one slide in a worker process, which loads the networks once; errors are part of the outcome."""
    torch.set_num_threads(1)
    try:
        works = _loaded(plan)
    except HistgenError as error:
        return Outcome(error=error)
    return encode_slide(path, works, plan.mpp)


@lru_cache(maxsize=1)
def _loaded(plan: _Plan) -> list[Work]:
    return _works(plan, [choice.open() for choice in plan.encoders])


def _works(plan: _Plan, opened: Sequence[OpenedEncoder]) -> list[Work]:
    return [
        Work(position, place, TorchEncoder(one.load(), plan.compute))
        for position, (place, one) in enumerate(zip(plan.places, opened, strict=True))
    ]


def _places(opened: Sequence[OpenedEncoder], out: Path) -> tuple[Place, ...]:
    """Give each encoder its folder: `out` itself for a single one."""
    if len(opened) == 1:
        return (Place(opened[0].maker, opened[0].tiling, out),)
    folders = [safe_id(one.maker.name) for one in opened]
    shared = sorted({name for name in folders if folders.count(name) > 1})
    if shared:
        raise InvalidInputError(
            "encoders-same-name",
            f"Two of the encoders are named {shared[0]}, and would share a folder.",
            hint="Name each encoder once, or encode with one of them into another --out.",
        )
    return tuple(
        Place(one.maker, one.tiling, place_in(out, name), parent=out)
        for one, name in zip(opened, folders, strict=True)
    )


def find_slides(places: Sequence[Path]) -> list[Path]:
    """List the slides among `places` and in folders, each once; for DICOM files, their folder."""
    found = [finding.find_slides(place).slides if place.is_dir() else [place] for place in places]
    return list(dict.fromkeys(chain.from_iterable(found)))


def _require_own_names(slides: Sequence[Path]) -> None:
    owners: dict[str, Path] = {}
    for path in slides:
        other = owners.setdefault(slide_id_of(path), path)
        if other != path:
            raise InvalidInputError(
                "training-slides-same-name",
                f"{other} and {path} would share one bag.",
                hint="Rename one of them, or encode them into different folders.",
            )


def _count(result: EncodeResult, path: Path, outcome: Outcome) -> None:
    """Add a slide's outcome. An error that is not the slide's own, which all others would meet, is raised."""
    for position in outcome.written:
        result.encoders[position].written += 1
    for position in outcome.kept:
        result.encoders[position].kept += 1
    if isinstance(outcome.error, FatalError):
        raise outcome.error
    if outcome.error is not None:
        result.failed.append((path, outcome.error))
