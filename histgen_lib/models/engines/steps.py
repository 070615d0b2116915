"""Beam search that stays on the device: one compiled step, started again and again without waiting for it.

What a step gives is what the next one takes, so there are two sets of everything that changes, and steps lead
from one to the other and back. All of it keeps its place: each direction is recorded as a CUDA graph, and a
step costs one launch instead of one a kernel. After each step a few hundred bytes (words, parents and their
log-probabilities) are copied to the host, and what the beams looked at goes into a history on the device.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np

from histgen_lib.errors import FatalError
from histgen_lib.models.engines.device import Mark, Rows
from histgen_lib.models.engines.numbers import Array, storage
from histgen_lib.models.engines.record import Shape, TensorFacts
from histgen_lib.models.engines.session import Engine, Lane, nbytes
from histgen_lib.models.histgen.decoding import Continuations, Floats, Ints

log = logging.getLogger(__name__)

ALIGNMENT = 256
"""TensorRT wants tensors to begin at multiples of this."""

_FOLLOWED = ("tokens", "parents", "chosen")
"""What the host follows: copied in one piece."""
_KEPT = (*_FOLLOWED, "scores", "place", "past", "attention", "log_probs")
"""What changes from step to step."""
_BEFORE = {
    "next_tokens": "tokens",
    "next_parents": "parents",
    "next_scores": "scores",
    "next_place": "place",
    "present": "past",
}
"""Outputs of a step, and the inputs of the next one that they are."""


class StepLoop:
    """The loop for so many slides, each of up to `regions` regions: fixed sizes, so that graphs stay valid.

    A loop serves one batch at a time: `load` each slide, `begin`, then `advance` step by step. Raises
    MemoryError.
    """

    def __init__(self, engine: Engine, slides: int, regions: int) -> None:
        self.slides, self.regions = slides, regions
        self.beams, self.max_tokens = engine.record.sizes["beams"], engine.record.sizes["max_tokens"]
        self._engine, self._lane, self._device = engine, Lane(engine), engine.device
        with ExitStack() as undo:
            undo.callback(self.close)
            self._allocate()
            self._steps = self._ready()
            undo.pop_all()

    def _allocate(self) -> None:
        self._context = self._lane.sized(
            {
                name: _filled(facts.shape, self.slides, self.regions)
                for name, facts in self._engine.inputs.items()
            }
        )
        self._sizes = _Sizes(self._engine, self._context)
        self._sets = tuple(self._lane.memory(name, self._sizes.total) for name in ("set 0", "set 1"))
        self._history = self._device.pin(self._sizes.followed * self.max_tokens)
        self._looked = self._lane.memory("looked", self._sizes.bytes("attention") * self.max_tokens)
        self._valid = np.zeros(self._sizes.shape("valid"), dtype=np.bool_)
        self._round = 0

    def load(self, place: int, cross: int, regions: int) -> None:
        """Take over what one slide's words will attend to: at address `cross` [L, 2, 1, h, regions, k].

        Waits, so that the memory it came from may be used again.
        """
        layers, _, slides, heads, most, width = self._sizes.shape("cross")
        row = width * storage(self._engine.inputs["cross"].dtype).itemsize
        stream = self._lane.stream
        for part in range(2 * layers):  # of each layer the keys, then the values
            target = self._fixed("cross") + (part * slides + place) * heads * most * row
            source = cross + part * heads * regions * row
            self._device.clear(target, heads * most * row, stream)  # beyond its regions: anything finite
            self._device.copy_rows(
                Rows(target, most * row), Rows(source, regions * row), width=regions * row, count=heads,
                stream=stream,
            )  # fmt: skip
        self._valid[place] = np.arange(most) < regions
        self._device.wait(stream)

    def begin(self) -> None:
        """Put every slide before its first word."""
        self._round = 0
        self._lane.send("valid", self._valid, self._fixed("valid"))
        scores = np.full((self.slides, self.beams), -np.inf, dtype=np.float32)
        scores[:, 0] = 0.0
        words = np.zeros((self.slides, self.beams), dtype=np.int64)
        self.feed(words, np.tile(np.arange(self.beams), (self.slides, 1)))
        self._send("scores", scores)
        self._send("place", np.zeros(1, dtype=np.int64))
        # No mask hides what is no number: a report that went wrong must not spoil those after it.
        self._device.clear(self._at("past"), self._sizes.bytes("past"), self._lane.stream)
        self._device.wait(self._lane.stream)

    def feed(self, tokens: Ints, parents: Ints) -> None:
        """Have the next step take these words and parents int64[S, B], instead of what the last one chose."""
        self._send("tokens", tokens)
        self._send("parents", parents)

    def advance(self) -> None:
        """Start a step, and the copies of what it gives; waits for nothing. At most `max_tokens` times."""
        place, stream = self._round, self._lane.stream
        self._steps[place % 2]()
        self._round += 1
        size, followed = self._sizes.bytes("attention"), self._sizes.followed
        self._device.copy(self._history.address + place * followed, self._at("tokens"), followed, stream)
        self._device.copy(self._looked + place * size, self._at("attention"), size, stream)

    def mark(self) -> Mark:
        """Return a mark that is reached when all that was started is done."""
        return self._device.mark(self._lane.stream)

    def continuations(self, place: int) -> Continuations:
        """Return what the step at `place` chose; it has to be done."""
        start = place * self._sizes.followed
        block = self._history.array[start : start + self._sizes.followed]
        return Continuations(*(self._sizes.read(block, name) for name in _FOLLOWED))

    def looked(self, rounds: int) -> Floats:
        """Return what the beams fed to the first steps looked at: float32[rounds, S, B, R]; waits."""
        shape = (rounds, *self._sizes.shape("attention"))
        return self._lane.fetch({"looked": (self._looked, self._sizes.facts["attention"], shape)})["looked"]

    def last(self, *names: str) -> dict[str, Array]:
        """Wait for the latest step; return outputs of it that have no copy on the host."""
        return self._lane.fetch(
            {name: (self._at(name), self._sizes.facts[name], self._sizes.shape(name)) for name in names}
        )

    def close(self) -> None:
        """Give its memory back."""
        self._lane.close()

    def _ready(self) -> tuple[Callable[[], None], Callable[[], None]]:
        """Return what starts a step from the first set, and from the second."""
        self._valid[:, 0] = True  # or the first runs compute what is no number
        steps = self._direct(0), self._direct(1)
        self.begin()
        for step in steps:  # TensorRT settles what depends on sizes in a run that no graph may record
            step()
        self._device.wait(self._lane.stream)
        self._engine.keep_cache()
        can_record = getattr(self._context, "is_stream_capturable", None)  # TensorRT-RTX
        if can_record is not None and not can_record(self._lane.stream):
            return steps
        try:
            one, other = (self._device.capture(self._lane.stream, step) for step in steps)
            # They do not refer to this loop, so what CUDA holds for it goes when the loop goes. Python might
            # collect a cycle in the middle of another recording, and break that.
            return partial(one.launch, self._lane.stream), partial(other.launch, self._lane.stream)
        except FatalError as error:  # what cannot be recorded can still be run
            log.warning("the steps of %s run one kernel after the other: %s", self._engine.record.name, error)
            return steps

    def _direct(self, source: int) -> Callable[[], None]:
        def step() -> None:
            for name, address in self._addresses(source).items():
                self._lane.place(self._context, name, address)
            self._lane.start(self._context)

        return step

    def _addresses(self, source: int) -> dict[str, int]:
        """Return where all tensors of a step from one set to the other lie."""
        inputs = {
            name: self._fixed(name) if name in ("cross", "valid") else self._in_set(source, name)
            for name in self._engine.inputs
        }
        outputs = {name: self._in_set(1 - source, _BEFORE.get(name, name)) for name in self._engine.outputs}
        return inputs | outputs

    def _fixed(self, name: str) -> int:
        return self._lane.memory(name, self._sizes.bytes(name))

    def _in_set(self, which: int, name: str) -> int:
        return self._sets[which] + self._sizes.offsets[name]

    def _at(self, name: str) -> int:
        """Return where the latest step put something: the next one takes it from there."""
        return self._in_set(self._round % 2, name)

    def _send(self, name: str, values: Array) -> None:
        self._lane.send(name, values, self._at(name))


class _Sizes:
    """Shapes and sizes of a step's tensors, and the order of those that change in each of the two sets."""

    def __init__(self, engine: Engine, context: Any) -> None:
        self.facts: dict[str, TensorFacts] = engine.outputs | engine.inputs
        self._shapes = {name: tuple(context.get_tensor_shape(name)) for name in self.facts}
        self.offsets: dict[str, int] = {}
        self.total = self.followed = 0
        for name in _KEPT:
            self.offsets[name] = self.total
            self.total += -(-self.bytes(name) // ALIGNMENT) * ALIGNMENT
            self.followed = self.total if name in _FOLLOWED else self.followed

    def shape(self, name: str) -> Shape:
        """Return a tensor's shape."""
        return self._shapes[name]

    def bytes(self, name: str) -> int:
        """Return a tensor's size."""
        return nbytes(self.facts[name].dtype, self.shape(name))

    def read(self, block: Array, name: str) -> Array:
        """Return a copy of a tensor in the host's copy of a set's beginning."""
        start = self.offsets[name]
        raw = block[start : start + self.bytes(name)].copy()
        return raw.view(storage(self.facts[name].dtype)).reshape(self.shape(name))


def _filled(shape: Shape, slides: int, regions: int) -> Shape:
    """Fill in the sizes of an input that vary: slides come before regions."""
    sizes = iter((slides, regions))
    return tuple(next(sizes) if size < 0 else size for size in shape)
