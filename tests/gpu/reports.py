"""The report model by torch: agreement with the CPU's float32, and how long encoding and decoding take."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from gpu.bench import DTYPES, Bench, number
from gpu.table import milliseconds
from histgen_lib.models.captured import captured
from histgen_lib.models.histgen.decoding import Decoded, DecodingSettings, decode
from histgen_lib.models.histgen.encoder import RegionMemory
from histgen_lib.models.histgen.network import TorchStepper
from histgen_lib.models.histgen.on_device import DeviceEncoder
from histgen_lib.models.histgen.serving import Written
from histgen_lib.models.histgen.torch_encode import SlideEncoder
from histgen_lib.models.histgen.torch_engine import TorchEngine
from histgen_lib.models.histgen.torch_search import Search, Searches


class Tolerance(NamedTuple):
    """How far shares of tiles, and log-probabilities, may be from the CPU's; the latter of a word."""

    shares: float
    log_probs: float


TOLERANCES = {
    "float32": Tolerance(1e-5, 1e-3),
    "float16": Tolerance(1e-3, 0.1),
    "bfloat16": Tolerance(5e-3, 0.5),
}
"""On the CPU at the published sizes they are used up by a hundredth, a tenth and a seventh."""


class Truth(NamedTuple):
    """One slide as the network computes it on the CPU in float32."""

    memory: RegionMemory
    text: Decoded


def compare(bench: Bench) -> None:
    """Compare every number type, every way to choose words, and slides together with slides alone."""
    how = DecodingSettings(beam_size=bench.sizes.beams, max_tokens=bench.sizes.words)
    truths = [truth(bench, tiles, how) for tiles in bench.sizes.compared]
    bags = [bench.slide(tiles) for tiles in bench.sizes.compared]
    for name, dtype in DTYPES.items():
        with bench.attempt("report", f"torch {name}"):
            engine = TorchEngine(bench.model, bench.device, dtype)
            found = [engine.write(*bag, how) for bag in bags]
            judge(bench, f"torch {name}", name, found, truths)
            together = engine.write_many(bags, how)
            judge(bench, f"torch {name}, together", name, together, truths)
    with bench.attempt("report", "torch float32, greedy"):
        engine = TorchEngine(bench.model, bench.device, torch.float32)
        greedy = DecodingSettings(method="greedy", max_tokens=bench.sizes.words)
        expected = [truth(bench, tiles, greedy) for tiles in bench.sizes.compared]
        judge(bench, "torch float32, greedy", "float32", engine.write_many(bags, greedy), expected)


def truth(bench: Bench, tiles: int, how: DecodingSettings) -> Truth:
    features, places = bench.slide(tiles)
    ordered = torch.from_numpy(features[places.rows[places.mask]].astype(np.float32))[None]
    with torch.no_grad():
        memory = bench.model.region_memory(ordered, torch.ones(1, tiles, dtype=torch.bool))
        return Truth(memory, decode(TorchStepper(bench.model, memory), how)[0])


def judge(bench: Bench, path: str, precision: str, found: list[Written], truths: list[Truth]) -> None:
    """Add how far written reports are from the CPU's.

    A text may differ where two are nearly as likely. So its words' probabilities are compared with those
    that the CPU gives the same words, and its score there with that of the CPU's own text.
    """
    size = f"N={', '.join(number(tiles) for tiles in bench.sizes.compared)}"
    allowed = TOLERANCES[precision]
    shares = max(
        np.abs(one.tile_weights - true.memory.tile_weights[0].numpy()).max()
        for one, true in zip(found, truths, strict=True)
    )
    rescored = [_log_probs(bench, one.text, true) for one, true in zip(found, truths, strict=True)]
    apart = max(np.abs(one.text.log_probs - again).max() for one, again in zip(found, rescored, strict=True))
    lost = max(
        (true.text.score - again.sum()) / len(again) for true, again in zip(truths, rescored, strict=True)
    )
    same = sum(
        one.text.tokens.tolist() == true.text.tokens.tolist() for one, true in zip(found, truths, strict=True)
    )
    add = bench.table
    add.agree("report", f"{path}: tiles' shares", size, float(shares), allowed.shares)
    add.agree("report", f"{path}: log-probabilities of its words", size, float(apart), allowed.log_probs)
    add.agree(
        "report", f"{path}: less likely than the CPU's text, a word", size, float(lost), allowed.log_probs
    )
    if precision == "float32":
        add.agree("report", f"{path}: texts unlike the CPU's", size, len(found) - same, 0)
    else:
        add.figure("report", f"{path}: texts like the CPU's", size, f"{same} of {len(found)}")


def _log_probs(bench: Bench, text: Decoded, true: Truth) -> np.ndarray:
    """Return what the CPU thinks of a text's words: float32[T]."""
    fed = torch.from_numpy(np.concatenate([[0], text.tokens[:-1]]))
    with torch.no_grad():
        found = bench.model.text_log_probs(true.memory, fed[None])[0].numpy()
    return found[np.arange(len(fed)), text.tokens]


def measure(bench: Bench) -> None:
    """Measure encoding, one step, whole reports, several together, and memory."""
    for name in ("bfloat16", "float32"):
        for work in (_encode_all, _decode, _decode_together, _hold):
            with bench.attempt("report", f"{name}: {work.__name__}"):
                work(bench, name)


def _encode_all(bench: Bench, name: str) -> None:
    for tiles in bench.sizes.tiles:
        _encode(bench, name, tiles)


def _hold(bench: Bench, name: str) -> None:
    """Measure the memory that one large slide takes, and many in turn would."""
    encode = SlideEncoder(bench.model, bench.device, DTYPES[name])
    held = bench.peak(partial(encode, *bench.slide(bench.sizes.tiles[-1])))
    bench.table.figure("report", f"{name}: memory to encode", f"N={number(bench.sizes.tiles[-1])}", held)


def _encode(bench: Bench, name: str, tiles: int) -> None:
    size = f"N={number(tiles)}"
    features, places = bench.slide(tiles)
    encode = SlideEncoder(bench.model, bench.device, DTYPES[name])
    taken = bench.seconds(partial(encode, features, places))
    bench.table.figure("report", f"{name}: encode, from host memory", size, milliseconds(taken))
    network = DeviceEncoder(bench.model).to(bench.device, DTYPES[name]).eval()
    inputs = [torch.from_numpy(np.array(one)).to(bench.device) for one in (features, *places)]
    run = captured(partial(network, *inputs), bench.device)
    bench.table.figure(
        "report", f"{name}: encode, on the device, one launch", size, milliseconds(bench.seconds(run))
    )


def _decode(bench: Bench, name: str) -> None:
    sizes, dtype = bench.sizes, DTYPES[name]
    how = DecodingSettings(beam_size=sizes.beams, max_tokens=sizes.words)
    engine = TorchEngine(bench.model, bench.device, dtype)
    searches = Searches(bench.model, bench.device, dtype)
    encode = SlideEncoder(bench.model, bench.device, dtype)
    beams = f"{sizes.beams} × {sizes.words}"
    for tiles in sizes.tiles:
        size = f"N={number(tiles)}, {beams}"
        bag = bench.slide(tiles)
        search = searches.load([encode(*bag).cross], sizes.beams, sizes.words)
        step = bench.seconds(partial(_search, search, sizes.beams, sizes.words)) / sizes.words
        bench.table.figure("report", f"{name}: one step", size, milliseconds(step))
        whole = bench.seconds(partial(engine.write, *bag, how))
        bench.table.figure("report", f"{name}: whole report", size, milliseconds(whole))


def _decode_together(bench: Bench, name: str) -> None:
    sizes = bench.sizes
    how = DecodingSettings(beam_size=sizes.beams, max_tokens=sizes.words)
    engine = TorchEngine(bench.model, bench.device, DTYPES[name])
    bags = [bench.slide(sizes.usual + row) for row in range(sizes.together)]
    alone = bench.seconds(partial(engine.write, *bags[0], how))
    together = bench.seconds(partial(engine.write_many, bags, how))
    size = f"{sizes.together} × N={number(sizes.usual)}, {sizes.beams} × {sizes.words}"
    found = f"{milliseconds(together)}, {together / alone:.2f} × one"
    bench.table.figure("report", f"{name}: whole reports together", size, found)
    held = bench.peak(partial(engine.write_many, bags, how))
    bench.table.figure("report", f"{name}: memory of whole reports together", size, held)


def _search(search: Search, beams: int, words: int) -> None:
    for _ in search.search(beams, words):
        pass
