"""How a server hosts a model: what a target decides, and `histgen_lib.export.repository` writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args

from histgen_lib.errors import InvalidInputError
from histgen_lib.models.folder import ModelFolder
from histgen_lib.models.serving import Device, Precision, ServedModel
from histgen_lib.models.tile_encoder.serving import QUANTISATION

INT8: Final = "int8"
Number = Precision | Literal["int8"]
"""Number formats of an exported model; "int8" is that of a model folder whose tile encoder is quantised."""
NUMBERS: tuple[Number, ...] = (*get_args(Precision), INT8)


@dataclass(frozen=True)
class Choices:
    """What the caller of an export decides.

    `precision`: None for that of the model folder. `device`: where the models are to run; None for the
    target's own. `reference`: refer to the model folder rather than copy what Python models need. `threads`:
    cores that each model on a CPU may use; None for all.
    """

    precision: Number | None = None
    device: Device | None = None
    reference: bool = False
    threads: int | None = None


@dataclass(frozen=True)
class Hosting:
    """One model, as a server hosts it.

    backend     Triton's name of what runs it
    write       writes the files of the model's version into a folder
    largest     how many rows or bags are handed over at once
    device      "cuda": the instances are on every GPU
    instances   how many at once, on each device
    preferred   sizes of batches that the server forms if it can
    parameters  in addition to those that every model has
    model_file  the file that the backend loads, where it has to be named
    dtypes      of outputs that are not what the model itself states
    """

    backend: str
    write: Callable[[Path], None]
    largest: int
    device: Device = "cpu"
    instances: int = 1
    preferred: tuple[int, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    model_file: str = ""
    dtypes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Order:
    """One model of an export: `precision` and `device` are decided, `place` is its folder in the repository.

    `stated`: the caller asked for this precision.
    """

    folder: ModelFolder
    model: ServedModel
    place: Path
    precision: Number
    stated: bool
    device: Device
    reference: bool
    threads: int | None

    @property
    def network_precision(self) -> Precision:
        """The number format of a network that is not quantised."""
        return "float32" if self.precision == "int8" else self.precision


@dataclass(frozen=True)
class Target:
    """What models can be exported to.

    `devices`: where it runs models, the usual one first. `host` raises, before anything is written, if a
    model cannot be hosted.
    """

    name: str
    precisions: tuple[Number, ...]
    devices: tuple[Device, ...]
    host: Callable[[Order], Hosting]

    def order(self, folder: ModelFolder, model: ServedModel, place: Path, choices: Choices) -> Order:
        """Decide what the caller left open.

        Raises InvalidInputError: "export-precision", "export-device", "export-int8".
        """
        own: Number = INT8 if folder.encoder.get(QUANTISATION) else "float32"
        precision = choices.precision or own
        device = choices.device or self.devices[0]
        if precision not in self.precisions:
            raise InvalidInputError(
                "export-precision",
                f"The target {self.name} does not run models in {precision}.",
                hint=f"It takes --precision {', '.join(self.precisions)}.",
            )
        if device == "cpu" and precision in ("float16", "bfloat16"):
            raise InvalidInputError(
                "export-precision",
                f"Networks on a processor do not run in {precision}.",
                hint="Leave out --precision, or choose --device cuda.",
            )
        if device not in self.devices:
            raise InvalidInputError(
                "export-device",
                f"The target {self.name} does not run on {device}.",
                hint=f"It takes --device {', '.join(self.devices)}.",
            )
        if INT8 in (precision, own) and precision != own:
            raise _other_encoder(folder, own)
        stated = choices.precision is not None
        return Order(folder, model, place, precision, stated, device, choices.reference, choices.threads)


def _other_encoder(folder: ModelFolder, own: Number) -> InvalidInputError:
    return InvalidInputError(
        "export-int8",
        f"The tile encoder of {folder.name} is stored in {own}.",
        hint="Export it in that format, or another model folder: an encoder in int8 is one of its own, "
        "which `histgen model export --precision int8 --calibrate SLIDE … --out DIR` makes.",
    )
