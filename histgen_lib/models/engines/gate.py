"""The numerical gate: an engine is used only if it computes what ONNX Runtime computed in float32.

Engines that are silently wrong, above all in float16, are a known plague. So a few recorded inputs and ONNX
Runtime's outputs lie beside each engine; `pass_gate` runs them whenever the engine is loaded (they are small:
it takes milliseconds), on the very GPU, driver and library that will run it.

An output is compared in the way that its meaning asks for:

"close"   every number is within `relative` × the largest magnitude of the reference
"rows"    the same, and each row points in the reference's direction: cosine of at least `cosine` (features)
"choice"  at least half of the entries agree (what a search chose: in low precision near ties fall either way)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from histgen_lib.errors import FatalError
from histgen_lib.files import write_atomic
from histgen_lib.models.engines.numbers import Array
from histgen_lib.models.engines.record import EngineRecord, Tolerance
from histgen_lib.models.serving import Precision, Session, Tensors

Rule = Literal["close", "rows", "choice"]

TOLERANCES: Mapping[Precision, Tolerance] = {
    "float32": Tolerance(relative=5e-3, cosine=0.9999),
    "float16": Tolerance(relative=2e-2, cosine=0.999),
    "bfloat16": Tolerance(relative=5e-2, cosine=0.999),
}
"""Several times the errors that the encoder of the published size had on an H100 with TensorRT 10.6: 5e-4 in
float32, where products may be TF32, and 8e-3 in bfloat16."""

INT8_TOLERANCE = Tolerance(relative=5e-2, cosine=0.999)
"""Of a graph in int8, which ONNX Runtime computes as well: where one rounds up, the other may round down."""

_CHOICES_AGREE = 0.5
_RULES: Mapping[str, Rule] = {
    "features": "rows",
    **dict.fromkeys(("next_tokens", "next_parents", "chosen"), "choice"),
}


class Case(NamedTuple):
    """One recorded run: inputs and ONNX Runtime's outputs, by name. bfloat16 is kept as float32."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]


class Finding(NamedTuple):
    """An output's error as a share of what is allowed: at most 1 is good, infinite where it is no number."""

    output: str
    share: float


def save_cases(cases: Sequence[Case], path: Path) -> None:
    """Write recorded runs, all or nothing."""
    tensors = {
        f"{place}/{part}/{name}": np.ascontiguousarray(value)
        for place, case in enumerate(cases)
        for part, values in case._asdict().items()
        for name, value in values.items()
    }
    write_atomic(path, save(tensors))


def load_cases(path: Path) -> list[Case]:
    """Read recorded runs. Raises FatalError("engine-recorded")."""
    cases: dict[int, Case] = {}
    try:
        for key, value in sorted(load_file(path).items()):
            place, part, name = key.split("/", 2)
            case = cases.setdefault(int(place), Case({}, {}))
            {"inputs": case.inputs, "outputs": case.outputs}[part][name] = value
    except (SafetensorError, ValueError, KeyError, OSError) as error:
        raise useless(path.name, str(error).splitlines()[0]) from error
    return list(cases.values())


def cases_of(record: EngineRecord, path: Path) -> list[Case]:
    """Read an engine's recorded runs, which have all of its inputs and outputs; raises as `load_cases`."""
    tensors = [{one.name for one in ones} for ones in (record.inputs, record.outputs)]
    cases = load_cases(path)
    if any([set(case.inputs), set(case.outputs)] != tensors for case in cases):
        raise useless(path.name, "it has other inputs or outputs than the engine")
    return cases


def useless(name: str, why: str) -> FatalError:
    """Make the error for recorded runs by which an engine cannot be checked."""
    return FatalError(
        "engine-recorded",
        f"{name} holds no recorded inputs ({why}).",
        hint="Compile the model again with `histgen compile`.",
    )


def pass_gate(session: Session, cases: Sequence[Case], tolerance: Tolerance, name: str) -> Finding:
    """Run the recorded inputs; return the worst finding. Raises FatalError("engine-numbers")."""
    worst = max((_worst(session.run(case.inputs), case, tolerance) for case in cases), key=_share)
    if not worst.share <= 1:
        raise FatalError(
            "engine-numbers",
            f"The engine {name} computes wrong numbers: its output {worst.output!r} is "
            f"{_times(worst.share)} as far from ONNX Runtime's as its tolerance allows.",
            hint="Compile it in another --precision, or with another version of TensorRT.",
        )
    return worst


def _worst(found: Tensors, case: Case, tolerance: Tolerance) -> Finding:
    return max(
        (
            Finding(name, _error(_RULES.get(name, "close"), found[name], wanted, tolerance))
            for name, wanted in case.outputs.items()
        ),
        key=_share,
    )


def _share(finding: Finding) -> float:
    return finding.share


def _error(rule: Rule, found: Array, wanted: Array, tolerance: Tolerance) -> float:
    """Return the error of one output as a share of what is allowed."""
    if found.shape != wanted.shape:
        return float("inf")
    if rule == "choice":
        missed = 1 - float(np.mean(np.abs(found - wanted) <= tolerance.relative * _scale(wanted)))
        return missed / (1 - _CHOICES_AGREE)
    far = _distance(found, wanted) / tolerance.relative
    if rule == "rows":
        far = max(far, (1 - _least_cosine(found, wanted)) / (1 - tolerance.cosine))
    return far


def _distance(found: Array, wanted: Array) -> float:
    """Return the largest difference relative to the reference's scale; equal infinities are equal."""
    if found.size == 0:
        return 0.0
    if not np.array_equal(np.isfinite(found), np.isfinite(wanted)):
        return float("inf")
    real = np.isfinite(wanted)
    if not np.array_equal(found[~real], wanted[~real]):
        return float("inf")
    apart = np.abs(found[real].astype(np.float64) - wanted[real])
    return float(apart.max(initial=0.0)) / _scale(wanted)


def _scale(wanted: Array) -> float:
    real = np.abs(wanted[np.isfinite(wanted)]).astype(np.float64)
    return max(float(real.max(initial=0.0)), float(np.finfo(np.float32).tiny))


def _least_cosine(found: Array, wanted: Array) -> float:
    one, other = (np.asarray(rows, dtype=np.float64).reshape(len(rows), -1) for rows in (found, wanted))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosines = (one * other).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    return float(cosines.min(initial=1.0))


def _times(share: float) -> str:
    return f"{share:.3g} times" if np.isfinite(share) else "infinitely"
