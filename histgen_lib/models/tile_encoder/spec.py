"""How an encoder is named with arguments: "timm:vit_small_patch16_224?depth=6&img_size=224"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from urllib.parse import parse_qsl

from histgen_lib.errors import InvalidInputError
from histgen_lib.models.tile_encoder.row import Preprocessing, Value
from histgen_lib.models.tile_encoder.rows import ROWS

KINDS = ("timm", "onnx", "python")
"""Encoders that are named by what follows a colon."""

_PREPROCESSING = ("side", "resize", "mean", "std", "interpolation")
_WORDS: Mapping[str, Value] = {"true": True, "false": False, "none": None}


@dataclass(frozen=True)
class Spec:
    """A parsed name: "<kind>:<name>" or "<name>", and its arguments."""

    text: str
    kind: str
    name: str
    arguments: Mapping[str, Value]

    def of_network(self) -> dict[str, Value]:
        """Return the arguments that the architecture takes."""
        return {name: value for name, value in self.arguments.items() if name not in _PREPROCESSING}

    def preprocessing(self, default: Preprocessing) -> Preprocessing:
        """Return the default with the arguments that concern it. Raises InvalidInputError as `parse`.

        Where "side" is not stated it follows the architecture's "img_size", and "resize" follows the side.
        """
        stated = {name: value for name, value in self.arguments.items() if name in _PREPROCESSING}
        side = stated.setdefault("side", self.arguments.get("img_size", default.side))
        if default.resize is not None and isinstance(side, int):
            stated.setdefault("resize", round(default.resize * side / default.side))
        changed = Preprocessing(**{**vars(default), **stated})
        sizes = [changed.side, changed.side if changed.resize is None else changed.resize]
        triples = all(isinstance(v, tuple) and len(v) == 3 for v in (changed.mean, changed.std))
        if (
            not all(type(size) is int and size > 0 for size in sizes)
            or sizes[1] < sizes[0]
            or not triples
            or changed.interpolation not in {"bicubic", "bilinear"}
        ):
            raise InvalidInputError(
                "encoder-arguments",
                f"{self.text} states preprocessing that cannot be used.",
                hint="side and resize are px (resize is not less), mean and std three numbers each, and "
                "interpolation is bicubic or bilinear.",
            )
        return changed


def parse(text: str) -> Spec:
    """Take an encoder's name apart.

    Raises InvalidInputError: "encoder-unknown", with names like it; "encoder-arguments".
    """
    head, mark, query = text.partition("?")
    kind, colon, name = head.partition(":")
    if not colon:
        kind, name = "row", head
        if name not in ROWS:
            raise unknown(text)
    elif kind not in KINDS:
        kind, name = "python", head  # a bare module:function
    if not name or (kind == "python" and not all(name.rpartition(":")[::2])):
        raise unknown(text)
    return Spec(text, kind, name, _arguments(text, query) if mark else {})


def unknown(text: str) -> InvalidInputError:
    """Make the error for an encoder that there is not, with names like it."""
    near = get_close_matches(text.lower(), ROWS, n=3, cutoff=0.5)
    return InvalidInputError(
        "encoder-unknown",
        f"There is no tile encoder {text!r}.",
        hint=(f"Did you mean {', '.join(near)}? " if near else "")
        + "Use histgen-small, a name listed in docs/encoders.md, timm:<model>, onnx:<file> or "
        "python:<module>:<function>.",
    )


def _arguments(text: str, query: str) -> dict[str, Value]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    except ValueError as error:
        raise InvalidInputError(
            "encoder-arguments",
            f"The arguments of {text!r} cannot be read.",
            hint="Write them as name=value, joined by &.",
        ) from error
    return {name: _value(value) for name, value in pairs}


def _value(text: str) -> Value:
    if "," in text:
        items = [_number(item) for item in text.split(",")]
        numbers = tuple(item for item in items if not isinstance(item, str))
        return numbers if len(numbers) == len(items) else text
    return _WORDS[text.lower()] if text.lower() in _WORDS else _number(text)


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
