"""How fast a worker is: seconds and bytes that were measured, and by what.

The file that comes with histgen was measured on one core of a CPU with the demonstration model. `histgen plan
--measure` writes another one, on another machine or with another model. No GPU has a row before it was
measured there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from histgen_lib.errors import InvalidInputError

SHIPPED = Path(__file__).with_name("rates.json")
FORMAT = 1
CPU = "cpu"

T = TypeVar("T")


@dataclass(frozen=True)
class Provenance:
    """Where figures come from: the command, the processor, and the model that was run."""

    command: str
    processor: str
    model: str
    encoder: str
    histgen: str
    date: str


@dataclass(frozen=True)
class TilerRates:
    """A tiler on one core. `slide_s`: of each slide, whatever its size; `read_s`, `encode_s`: of each tile.

    `spread`: how far jobs of the same size differ, as a coefficient of variation.
    """

    slide_s: float
    read_s: float
    encode_s: float
    spread: float


@dataclass(frozen=True)
class ReporterRates:
    """A reporter on one core: of each report, `model_s` of it in the model; and of each tile of its bag."""

    report_s: float
    model_s: float
    tile_s: float
    spread: float


@dataclass(frozen=True)
class Sizes:
    """Bytes. `bag_tile`, `slide_tile`: for each tile. `tile_px`: the side of a tile on its way to a model."""

    bag: float
    bag_tile: float
    thumbnail: float
    report: float
    records: float
    events: float
    slide_tile: float
    tile_px: int


@dataclass(frozen=True)
class GpuRates:
    """One GPU behind Triton. `report_s`: of one report on it; None: the reporter computes on its core.

    `source`: what measured it; "" if somebody only says so.
    """

    tiles_per_second: float
    report_s: float | None = None
    source: str = ""

    def slide_s(self, tiles: float) -> float:
        """Return for how long a slide of so many tiles takes up one of them, its report included."""
        return tiles / self.tiles_per_second + (self.report_s or 0.0)


@dataclass(frozen=True)
class Rates:
    """All figures of a file. `start_s`: from the start of a worker's process until it takes records."""

    measured: Provenance
    tiler: TilerRates
    reporter: ReporterRates
    sizes: Sizes
    start_s: float
    gpus: Mapping[str, GpuRates] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what would make a job last no time at all, or less. Raises ValueError."""
        tiler, reporter = self.tiler, self.reporter
        if tiler.slide_s + tiler.read_s + tiler.encode_s <= 0 or reporter.report_s + reporter.tile_s <= 0:
            raise ValueError("a job takes 0 seconds")
        if reporter.model_s > reporter.report_s:
            raise ValueError("model_s is more than report_s, which it is a part of")
        for name, gpu in self.gpus.items():
            if gpu.tiles_per_second <= 0:
                raise ValueError(f"tiles_per_second of {name} is {gpu.tiles_per_second!r}")
            if gpu.report_s is not None and reporter.report_s - reporter.model_s + gpu.report_s <= 0:
                raise ValueError(f"a report with {name} takes 0 seconds")

    def gpu(self, name: str) -> GpuRates | None:
        """Return the figures of a GPU type; None for "cpu".

        Raises InvalidInputError("gpu-unmeasured"): a plan from a guess would look like one from figures.
        """
        if name == CPU:
            return None
        if name not in self.gpus:
            known = ", ".join([CPU, *self.gpus])
            raise InvalidInputError(
                "gpu-unmeasured",
                f"There are no figures of the GPU type {name!r}; there are some of: {known}.",
                hint="Measure it (tests/gpu/run.sh, docs/gpu.md), put it into a file for --rates, or state "
                "what you assume with --tiles-per-second: the plan will say so.",
            )
        return self.gpus[name]

    def assuming(self, name: str, tiles_per_second: float, report_s: float | None) -> Rates:
        """Return them with a GPU type of which somebody says how fast it is."""
        return replace(self, gpus={**self.gpus, name: GpuRates(tiles_per_second, report_s)})

    def to_json(self) -> dict[str, Any]:
        """Return what `load_rates` reads."""
        return {"format": FORMAT, **asdict(self)}


def load_rates(path: Path = SHIPPED) -> Rates:
    """Read a file of rates. Raises InvalidInputError("rates-unreadable")."""
    try:
        found = json.loads(path.read_bytes())
        if found["format"] != FORMAT:
            raise ValueError(f"its format is {found['format']!r}, not {FORMAT}")
        return Rates(
            measured=_read(Provenance, found["measured"]),
            tiler=_read(TilerRates, found["tiler"]),
            reporter=_read(ReporterRates, found["reporter"]),
            sizes=_read(Sizes, found["sizes"]),
            start_s=_number("start_s", found["start_s"]),
            gpus={str(name): _read(GpuRates, gpu) for name, gpu in found.get("gpus", {}).items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidInputError(
            "rates-unreadable",
            f"{path} holds no rates: {_reason(error)}.",
            hint="histgen plan --measure FILE writes such a file.",
        ) from None


def _read(kind: type[T], found: Mapping[str, Any]) -> T:
    """Make a record of numbers and texts; a number must be one, and not be negative."""
    values = dict(found)
    texts = {item.name for item in fields(kind) if item.type == "str"}  # type: ignore[arg-type]
    optional = {item.name for item in fields(kind) if item.default is None}  # type: ignore[arg-type]
    for name, value in values.items():
        if name in texts:
            values[name] = str(value)
        elif value is not None or name not in optional:
            values[name] = _number(name, value)
    return kind(**values)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"{name} is {value!r}, which is no number of 0 or more")
    return value


def _reason(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)
