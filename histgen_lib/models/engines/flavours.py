"""The two TensorRTs: which modules they come as, and which GPUs each of them takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from histgen_lib.errors import FatalError

_CAPABILITY = re.compile(r"\d+\.\d")
HOPPER = "9.0"
"""Compute capability of H100 and H200, which TensorRT-RTX refuses (measured)."""


@dataclass(frozen=True)
class Flavour:
    """One TensorRT.

    name      as in options, folders and records; `title` as people read it
    modules   Python modules that it may come as, the first that imports is used
    install   what to install when there is none
    ahead     compiles without a GPU, for `capabilities`; else for the GPU at hand, whatever it is
    """

    name: str
    title: str
    modules: tuple[str, ...]
    install: str
    ahead: bool
    capabilities: tuple[str, ...] = ()

    def load(self) -> ModuleType:
        """Import it. Raises FatalError("engine-package") when it is not installed or cannot be loaded."""
        reasons = []
        for name in self.modules:
            try:
                return import_module(name)
            except (ImportError, OSError) as error:  # OSError: the package is there, its libraries are not
                reasons.append(f"{name}: {error}")
        raise FatalError(
            "engine-package", f"{self.title} cannot be loaded ({'; '.join(reasons)}).", hint=self.install
        )

    def targets(self, asked: Sequence[str]) -> tuple[str, ...]:
        """Return the compute capabilities to compile for: those asked for, or all that it takes.

        () stands for the GPU at hand. Raises FatalError("engine-capability").
        """
        if not self.ahead and asked:
            raise FatalError(
                "engine-capability",
                f"{self.title} compiles for the GPU of the machine it runs on, and for no other.",
                hint="Leave out --compute-capability, and compile on the machine with that GPU.",
            )
        foreign = [one for one in asked if one not in self.capabilities]
        if foreign:
            raise FatalError(
                "engine-capability",
                f"{self.title} takes no GPU of compute capability {', '.join(foreign)}"
                f"{' (H100, H200)' if HOPPER in foreign else ''}, but {', '.join(self.capabilities)}.",
                hint="Use --target tensorrt on the machine with such a GPU."
                if all(_CAPABILITY.fullmatch(one) for one in foreign)
                else "A compute capability is written like 8.9.",
            )
        return tuple(dict.fromkeys(asked)) or self.capabilities


FLAVOURS = {
    flavour.name: flavour
    for flavour in (
        Flavour(
            name="tensorrt",
            title="TensorRT",
            modules=("tensorrt", "tensorrt_bindings"),
            install="Install NVIDIA's package `tensorrt` (10 or 11) on the machine with the GPU, or use "
            "NVIDIA's image of Triton, which has it.",
            ahead=False,
        ),
        Flavour(
            name="tensorrt-rtx",
            title="TensorRT-RTX",
            modules=("tensorrt_rtx", "tensorrt_rtx_bindings"),
            install="In a checkout run `make setup`; elsewhere: pip install --no-deps "
            "tensorrt_rtx_cu13_bindings tensorrt_rtx_cu13_libs",
            ahead=True,
            capabilities=("8.0", "8.6", "8.9", "12.0", "12.1"),
        ),
    )
}
"""Both, by name. Of TensorRT-RTX's `ComputeCapability` Turing is left out, which has to be compiled apart
(NVIDIA, "CPU-Only AOT and TensorRT-RTX Engines")."""


def flavour(name: str) -> Flavour:
    """Return a flavour by name. Raises FatalError("engine-flavour")."""
    if name not in FLAVOURS:
        raise FatalError(
            "engine-flavour", f"There are no engines of {name!r}.", hint=f"Use {' or '.join(FLAVOURS)}."
        )
    return FLAVOURS[name]
