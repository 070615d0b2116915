"""Writing slides to a folder: several processes, atomic files; an interrupted run resumes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from histgen_lib.cores import cores
from histgen_lib.errors import InvalidInputError
from histgen_lib.files import atomic_path, write_atomic
from histgen_lib.processes import process_pool
from histgen_lib.synth.painting import render
from histgen_lib.synth.spec import sample
from histgen_lib.synth.tiff import write_slide

SPLITS = ("train", "val", "test")


def generate(
    out: Path,
    count: int,
    seed: int = 0,
    *,
    workers: int | None = None,
    split: str = "mixed",
    val_share: float = 0.1,
    test_share: float = 0.1,
    start: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write slides `start` .. `start + count - 1` of `seed` under `out`; return the annotation file's path.

    Writes `slides/<id>.tif`, `truth/<id>.json`, `truth/<id>.png` and `annotation.json`. Slides of an earlier
    run with the same seed are kept, in the folder and in the annotation. `split` is "mixed" (by the shares)
    or "train", "val" or "test" for all slides; `progress(done, total)` is called as slides finish. The bytes
    do not depend on `workers`; with more than one, the calling script must guard its entry
    (`if __name__ == "__main__"`).
    Raises InvalidInputError: synth-count, synth-seed, synth-split, synth-output, synth-other-seed.
    """
    _check_numbers(count, seed, start)
    _check_split(split, val_share, test_share)
    _prepare(out, seed)
    indices = range(start, start + count)
    for done, _ in enumerate(_work(out, seed, indices, workers or cores()), 1):
        if progress is not None:
            progress(done, count)
    annotation = out / "annotation.json"
    entries = _annotation(seed, indices, split, val_share=val_share, test_share=test_share)
    write_atomic(annotation, _json(_merged(annotation, entries)))
    return annotation


def write_one(out: Path, seed: int, index: int) -> str:
    """Render and write one slide unless it is already complete; return its id."""
    spec = sample(seed, index)
    truth = out / "truth" / f"{spec.slide_id}.json"
    picture = out / "slides" / f"{spec.slide_id}.tif"
    if truth.exists() and picture.exists():
        return spec.slide_id
    cv2.setNumThreads(1)
    slide = render(spec)
    with atomic_path(picture) as path:
        write_slide(slide, path)
    _, png = cv2.imencode(".png", slide.class_map)
    write_atomic(out / "truth" / f"{spec.slide_id}.png", png.tobytes())
    # The truth is written last: if both exist, the slide is complete.
    write_atomic(truth, _json(slide.truth))
    return spec.slide_id


def _work(out: Path, seed: int, indices: range, workers: int) -> Iterator[str]:
    task = partial(write_one, out, seed)
    if workers == 1 or len(indices) == 1:
        yield from map(task, indices)
        return
    with process_pool(min(workers, len(indices))) as pool:
        yield from pool.map(task, indices)


def _annotation(
    seed: int, indices: range, split: str, *, val_share: float, test_share: float
) -> dict[str, Any]:
    """Return the annotation in the published layout; a slide's split depends only on its seed and index."""
    annotation: dict[str, Any] = {name: [] for name in SPLITS}
    for index in indices:
        spec = sample(seed, index)
        draw = float(np.random.default_rng([seed, index, 4]).random())
        mixed = "test" if draw < test_share else "val" if draw < test_share + val_share else "train"
        annotation[mixed if split == "mixed" else split].append(
            {"id": spec.slide_id, "report": spec.report, "image_path": [f"slides/{spec.slide_id}.tif"]}
        )
    return annotation


def _merged(path: Path, entries: dict[str, Any]) -> dict[str, Any]:
    """Return `entries` with an earlier run's entries of other slides, each split sorted by id."""
    earlier = json.loads(path.read_bytes()) if path.exists() else {}
    drawn = {case["id"] for split in SPLITS for case in entries[split]}
    kept = {split: [case for case in earlier.get(split, []) if case["id"] not in drawn] for split in SPLITS}
    return {split: sorted(kept[split] + entries[split], key=itemgetter("id")) for split in SPLITS}


def _check_numbers(count: int, seed: int, start: int) -> None:
    if count < 1:
        raise InvalidInputError("synth-count", f"Cannot make {count} slides.", hint="Use --count 1 or more.")
    if seed < 0 or start < 0:
        raise InvalidInputError("synth-seed", "Seed and start must not be negative.", hint="Use 0 or more.")


def _check_split(split: str, val_share: float, test_share: float) -> None:
    shares = val_share >= 0 and test_share >= 0 and val_share + test_share <= 1  # False for NaN
    if split not in ("mixed", *SPLITS) or not shares:
        raise InvalidInputError(
            "synth-split",
            f"Cannot split {split!r} with shares {val_share} and {test_share}.",
            hint="Use mixed, train, val or test, and shares from 0 that add up to at most 1.",
        )


def _prepare(out: Path, seed: int) -> None:
    """Create the folders and claim them for the seed."""
    marker = out / "synth.json"
    try:
        for name in ("slides", "truth"):
            (out / name).mkdir(parents=True, exist_ok=True)
        if not marker.exists():
            write_atomic(marker, _json({"schema": 1, "seed": seed}))
        owner = json.loads(marker.read_bytes()).get("seed")
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            "synth-output",
            f"Cannot write slides to {out}: {error}.",
            hint="Choose a folder that you have permission to write to.",
        ) from error
    if owner != seed:
        raise InvalidInputError(
            "synth-other-seed",
            f"{out} holds slides of seed {owner}, not {seed}.",
            hint="Use another folder, or that seed to continue in this one.",
        )


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
