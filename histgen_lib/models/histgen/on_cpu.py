"""The report model on a CPU: exported graphs on ONNX Runtime, a slide's regions one part after the other.

Torch-free. Every graph runs on one thread, and several threads take several parts, so that bits do not depend
on their number. Between graphs NumPy selects and copies; it computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from histgen_lib.cores import cores
from histgen_lib.models.bag_tensors import Features
from histgen_lib.models.histgen.config import HistGenConfig
from histgen_lib.models.histgen.decoding import DecodingSettings, Floats, Ints, Step, decode
from histgen_lib.models.histgen.layout import Arrangement
from histgen_lib.models.histgen.serving import (
    CONTEXT_ONNX,
    PARTS,
    POOLING_ONNX,
    PROTOTYPES_ONNX,
    RECALL_ONNX,
    REGIONS_ONNX,
    SLIDE_ONNX,
    STEP_ONNX,
    WORDS_ONNX,
    Written,
    head_inputs,
    layer_inputs,
    report_config,
)
from histgen_lib.models.serving import OnnxSession, ServedFolder, Session

Graphs = Mapping[str, Session]
Layers = list[tuple[Floats, Floats]]
"""For each layer of the decoder, keys [h, k, T] and values [h, T, k]."""

_POSITIONS_A_PART = 384
"""Positions of regions that are computed at once: their values fit a core's cache."""

_PROTOTYPES_A_PART = 64
"""Prototypes whose scores of all slots are computed, and selected from, at once."""

_HEARING_A_PART = 1024
"""Regions that attend to all regions at once: each part computes those keys and values again."""

_SPARE = 64
"""Words for which a cache has room beyond those in it."""

_WORDS_KEPT = 1 << 14
"""Words at their places that are remembered: 32 MB at the published size."""

_T = TypeVar("_T")
_U = TypeVar("_U")


class Map(Protocol):
    """`map`, or that of a pool of threads."""

    def __call__(self, work: Callable[[_T], _U], parts: Iterable[_T], /) -> Iterable[_U]:
        """Do the work for each part; results in their order."""
        ...


class EncodedSlide(NamedTuple):
    """`tile_weights` float32[R, P], each tile's share in its region; `cross`, what the decoder attends to."""

    tile_weights: Floats
    cross: Layers


def cpu_engine(folder: ServedFolder, threads: int | None) -> CpuEngine:
    """Load a model folder's graphs. Raises FatalError: "model-incomplete", "model-onnx"."""
    # Of a slide with very many regions, that graph would keep hundreds of MB for the next.
    graphs = {name: OnnxSession(folder.file(name), threads=1, shrink=name == SLIDE_ONNX) for name in PARTS}
    return CpuEngine(report_config(folder), graphs, threads or cores())


class CpuEngine:
    """A `ReportEngine` over the graphs that `histgen_lib.export.cpu_graphs` writes, by file name.

    `threads`: cores that the encoding of one slide may use; with one, the caller's thread does it all.
    """

    def __init__(self, config: HistGenConfig, graphs: Graphs, threads: int) -> None:
        self.config = config
        self._graphs = graphs
        self._words = CpuWords(config, graphs)
        self._map: Map = map
        if threads > 1:
            self._map = ThreadPoolExecutor(threads, thread_name_prefix="histgen-regions").map

    def write(self, features: Features, places: Arrangement, settings: DecodingSettings) -> Written:
        """See `ReportEngine.write`."""
        slide = self.encode(features, places)
        return Written(decode(self.stepper(slide), settings)[0], slide.tile_weights)

    def encode(self, features: Features, places: Arrangement) -> EncodedSlide:
        """Encode one slide (or case); arguments as of `write`."""
        return _SlideEncoder(self.config, self._graphs, self._map, features, places).encode()

    def stepper(self, slide: EncodedSlide) -> CpuStepper:
        """Begin to decode an encoded slide."""
        return CpuStepper(self._graphs[STEP_ONNX], self.config, self._words, slide)


class _SlideEncoder:
    """The encoding of one slide."""

    def __init__(
        self, config: HistGenConfig, graphs: Graphs, each: Map, features: Features, places: Arrangement
    ) -> None:
        self.config, self._graphs, self._map = config, graphs, each
        self._features, self._places = features, places
        self._parts = _slices(len(places.mask), max(1, _POSITIONS_A_PART // config.region_size))

    def encode(self) -> EncodedSlide:
        context = self._context()
        x = self._each(lambda part: self._regions(part, context), self._parts)
        self._across(x)
        return self._pool(x)

    def _context(self) -> dict[str, Floats]:
        """Recall what the prototypes look for: keys and values for all tiles."""
        # Of few tiles, many are prototypes several times.
        rows, places = np.unique(self._places.prototypes, return_inverse=True)
        parts = [rows[part] for part in _slices(len(rows), _PROTOTYPES_A_PART)]
        found = self._each(self._recall, parts)
        return {
            name: np.concatenate([part[name] for part in found], axis=1)[:, places]
            for name in ("keys", "values")
        }

    def _recall(self, rows: Ints) -> dict[str, Floats]:
        found = self._graphs[PROTOTYPES_ONNX].run({"features": _float32(self._features[rows])})
        for scores, dropped in map(head_inputs, range(self.config.num_heads)):
            found[dropped] = all_but_best(found[scores], self.config.topk)
        return self._graphs[CONTEXT_ONNX].run(found)

    def _regions(self, part: slice, context: dict[str, Floats]) -> Floats:
        """Run the first block within some regions: float32[G, P+1, d]."""
        rows = np.pad(self._places.rows[part], [(0, 0), (0, 1)])
        tiles = {"tiles": _float32(self._features[rows.ravel()]), "mask": self._mask(part)}
        return self._graphs[REGIONS_ONNX].run(tiles | context)["x"]

    def _across(self, x: list[Floats]) -> None:
        """Let the regions hear each other: replaces the position of each that speaks for it."""
        speaker = 0 if self.config.mode == "published" else -1
        spoken = np.concatenate([part[:, speaker] for part in x])
        parts = _slices(len(spoken), _HEARING_A_PART)
        heard = np.concatenate(self._each(lambda part: self._hear(spoken, part), parts))
        for part, regions in zip(x, self._parts, strict=True):
            part[:, speaker] = heard[regions]

    def _hear(self, spoken: Floats, part: slice) -> Floats:
        rows = np.arange(part.start, part.stop)
        return self._graphs[SLIDE_ONNX].run({"spoken": spoken, "rows": rows})["heard"]

    def _pool(self, x: list[Floats]) -> EncodedSlide:
        """Run the second block and the pooling; empties `x` on the way."""
        shape = self._places.mask.shape
        slide = EncodedSlide(np.empty(shape, dtype=np.float32), _room(self.config, shape[0]))

        def fill(place: int) -> None:
            part, positions = self._parts[place], x[place]
            x[place] = positions[:0]  # nobody needs them again
            found = self._graphs[POOLING_ONNX].run({"x": positions, "mask": self._mask(part)})
            slide.tile_weights[part] = found["tile_weights"]
            pairs = found["cross"].reshape(-1, *_split(self.config)).transpose(1, 2, 3, 4, 0)
            for (keys, values), pair in zip(slide.cross, pairs, strict=True):
                keys[:, :, part], values[:, part] = pair[0], pair[1].swapaxes(1, 2)

        self._each(fill, range(len(self._parts)))
        return slide

    def _mask(self, part: slice) -> Floats:
        """Return 1 at some regions' tiles and 0 at padding and at the token: float32[G, P+1]."""
        return np.pad(self._places.mask[part], [(0, 0), (0, 1)]).astype(np.float32)

    def _each(self, work: Callable[[_T], _U], parts: Iterable[_T]) -> list[_U]:
        return list(self._map(work, parts))


class CpuWords:
    """Words as the decoder takes them: what each recalls depends on itself and its place alone.

    They are remembered for the reports to come. The graphs give a word the same bits whoever asked for it
    first, and together with what. Safe to use from several threads.
    """

    def __init__(self, config: HistGenConfig, graphs: Graphs) -> None:
        self._topk = config.topk
        self._embed, self._recall = graphs[WORDS_ONNX], graphs[RECALL_ONNX]
        self._known: dict[tuple[int, int], Floats] = {}
        self._adding = Lock()

    def of(self, tokens: Sequence[int], place: int) -> Floats:
        """Return some words at a place: [B, d]."""
        known = {token: word for token in tokens if (word := self._known.get((token, place))) is not None}
        missing = list(set(tokens) - set(known))
        if missing:
            known |= zip(missing, self._computed(missing, place), strict=True)
            self._remember({(token, place): known[token] for token in missing})
        return np.stack([known[token] for token in tokens])

    def _computed(self, tokens: list[int], place: int) -> Floats:
        found = self._embed.run({"tokens": np.array(tokens), "place": np.array([place])})
        found["dropped"] = all_but_best(found["scores"], self._topk)
        return self._recall.run(found)["words"]

    def _remember(self, words: dict[tuple[int, int], Floats]) -> None:
        with self._adding:
            self._known |= words
            while len(self._known) > _WORDS_KEPT:
                del self._known[next(iter(self._known))]


class CpuCache(NamedTuple):
    """What belongs to each beam of a `CpuStepper`'s cache: `bias` float32[B, C], 0 at its words, else −inf.

    `length` words are in every beam.
    """

    bias: Floats
    length: int


class CpuStepper:
    """A `Stepper` for one slide. A cache is used up by the step that extends it."""

    slides = 1

    def __init__(self, graph: Session, config: HistGenConfig, words: CpuWords, slide: EncodedSlide) -> None:
        self._graph, self._words = graph, words
        self._said = _Said(config)
        self._cross = _named(slide.cross, slice(2, 4))

    def start(self) -> CpuCache:
        """Make the cache before the first token."""
        return CpuCache(np.full((1, self._said.room), -np.inf, dtype=np.float32), 0)

    def step(self, tokens: Ints, cache: CpuCache) -> Step[CpuCache]:
        """Feed tokens int64[1, B] and get log-probabilities, attention and the longer cache."""
        words = self._words.of(tokens[0].tolist(), cache.length)
        inputs = {"words": words, "bias": cache.bias[:, None, None], **self._said.inputs(), **self._cross}
        found = self._graph.run(inputs)
        bias = self._said.add(found["present"], cache.bias)
        return Step(found["log_probs"][None], found["attention"][None], CpuCache(bias, cache.length + 1))

    def select(self, cache: CpuCache, slides: Ints, beams: Ints) -> CpuCache:
        """Keep these beams int64[1, B]."""
        return cache._replace(bias=cache.bias[beams[0]])


class _Said:
    """Keys and values of all words that any beam has said: [h, k, C] and [h, C, k] for each layer."""

    def __init__(self, config: HistGenConfig) -> None:
        self._split = _split(config)
        self.room, self._used = _SPARE, 0
        self._layers = _room(config, self.room)

    def inputs(self) -> dict[str, Floats]:
        """Return them as the step's graph takes them."""
        return _named(self._layers, slice(0, 2))

    def add(self, present: Floats, bias: Floats) -> Floats:
        """Add one word a beam, [B, 2·L·d]; returns the beams' `bias` [B, C] with it."""
        beams = len(present)
        if self._used + beams > self.room:
            bias = self._make_room(bias, beams)
        self._store(present.reshape(beams, *self._split), slice(self._used, self._used + beams))
        own = np.arange(beams)
        bias[own, self._used + own] = 0
        self._used += beams
        return bias

    def _store(self, words: Floats, places: slice) -> None:
        for (keys, values), new in zip(self._layers, words.transpose(1, 2, 3, 4, 0), strict=True):
            keys[:, :, places] = new[0]
            values[:, places] = new[1].swapaxes(1, 2)

    def _make_room(self, bias: Floats, beams: int) -> Floats:
        """Forget the words that are in no beam any more, and have room for some more than are left."""
        alive = np.flatnonzero((bias == 0).any(axis=0))
        self._used, self.room = len(alive), len(alive) + beams + _SPARE
        spare = self.room - self._used
        self._layers = [
            (
                np.pad(keys[:, :, alive], [(0, 0), (0, 0), (0, spare)]),
                np.pad(values[:, alive], [(0, 0), (0, spare), (0, 0)]),
            )
            for keys, values in self._layers
        ]
        return np.pad(bias[:, alive], [(0, 0), (0, spare)], constant_values=-np.inf)


def _split(config: HistGenConfig) -> tuple[int, int, int, int]:
    """Return how a row of all layers' keys and values is divided: L, 2, h, k."""
    return config.num_layers, 2, config.num_heads, config.d_model // config.num_heads


def _room(config: HistGenConfig, size: int) -> Layers:
    layers, _, heads, width = _split(config)
    shapes = (heads, width, size), (heads, size, width)
    return [(np.zeros(shapes[0], np.float32), np.zeros(shapes[1], np.float32)) for _ in range(layers)]


def _named(layers: Layers, which: slice) -> dict[str, Floats]:
    """Name each layer's pair as inputs of the step's graph."""
    return {
        name: values
        for layer, pair in enumerate(layers)
        for name, values in zip(layer_inputs(layer)[which], pair, strict=True)
    }


def all_but_best(scores: Floats, count: int) -> npt.NDArray[np.bool_]:
    """Return which scores are not among the `count` best of their row (last axis), as bool of their shape.

    Exactly that many are: of those that tie for the last place, the first ones. Only comparisons decide, and
    what is no number counts as best, so that it shows in what is computed.
    """
    size = scores.shape[-1]
    if count >= size:
        return np.zeros(scores.shape, dtype=np.bool_)
    rows = scores.reshape(-1, size)
    least = np.partition(rows, size - count, axis=1)[:, size - count, None]
    dropped = rows < least
    if np.count_nonzero(dropped) != len(rows) * (size - count):
        surplus = size - np.count_nonzero(dropped, axis=1) - count
        for row in np.flatnonzero(surplus):
            tied = np.flatnonzero(rows[row] == least[row])
            dropped[row, tied[len(tied) - surplus[row] :]] = True
    return dropped.reshape(scores.shape)


def _slices(size: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


def _float32(values: Features) -> Floats:
    return values.astype(np.float32, copy=False)
