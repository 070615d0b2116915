"""Reading and writing bags: our Parquet layout, and by suffix the layouts of other tools."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from histgen_lib.bags._damage import unreadable
from histgen_lib.bags.bag import Bag, Maker, maker_of
from histgen_lib.errors import InvalidInputError, TransientError
from histgen_lib.names import safe_id


def write_bag(bag: Bag, path: str | Path) -> None:
    """Write `bag` to `path` as Parquet, all or nothing. The same bag always gives the same bytes.

    Raises `TransientError("bag-write-failed")` when the disk refuses.
    """
    from histgen_lib.bags import _parquet

    try:
        _parquet.write(bag, Path(path))
    except OSError as error:
        raise TransientError(
            "bag-write-failed",
            f"The bag {Path(path).name} cannot be written: {error.strerror or error}.",
            hint="Free some space, or check that this account may write there; then run it again.",
        ) from error


def pack_bag(bag: Bag) -> bytes:
    """Return `bag` as the bytes that `write_bag` writes."""
    from histgen_lib.bags import _parquet

    return _parquet.pack(bag)


def unpack_bag(data: bytes, name: str) -> Bag:
    """Read what `pack_bag` gave, its slide's id as it is; `name` is what to call the bag in errors.

    Raises `InvalidInputError`: `bag-unreadable`, `bag-schema-newer`, `bag-too-large`, `bag-invalid`.
    """
    from histgen_lib.bags import _parquet

    return _parquet.unpack(data, name)


def read_bag(path: str | Path) -> Bag:
    """Read a bag: `.parquet` (ours), `.h5` (CLAM, TRIDENT, STAMP), `.pt` (HistGen, CLAM).

    The name that the file holds is made safe, as that of a slide's file is: folders are named after it.

    Raises `InvalidInputError`: `bag-missing`, `bag-unreadable` (damaged, or another layout),
    `bag-format-unknown` (suffix), `bag-schema-newer`, `bag-too-large`, `bag-invalid` (its content);
    `FatalError("bag-needs-torch")` for `.pt` without torch.
    """
    path = Path(path)
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise InvalidInputError(
            "bag-format-unknown",
            f"{path.name} is not a bag that can be read.",
            hint=f"Give a file that ends in {', '.join(_READERS)}.",
        )
    if path.exists() and not path.is_file():
        raise unreadable(path.name, "it is no ordinary file")
    if not path.is_file():
        raise InvalidInputError(
            "bag-missing", f"There is no bag {path.name}.", hint="Check the path for a typing error."
        )
    bag = read(path)
    name = safe_id(bag.slide_id)
    return bag if bag.slide_id == name else replace(bag, slide_id=name)


def read_maker(path: Path) -> Maker:
    """Say what made a bag; of our own files only the facts are read for it. Raises as `read_bag`."""
    if path.suffix.lower() != ".parquet":
        return maker_of(read_bag(path))
    from histgen_lib.bags import _parquet

    return _parquet.read_maker(path)


def _read_parquet(path: Path) -> Bag:
    from histgen_lib.bags import _parquet

    return _parquet.read(path)


def _read_h5(path: Path) -> Bag:
    from histgen_lib.bags import _h5

    return _h5.read(path)


def _read_pt(path: Path) -> Bag:
    from histgen_lib.bags import _pt

    return _pt.read(path)


_READERS: dict[str, Callable[[Path], Bag]] = {
    ".parquet": _read_parquet,
    ".h5": _read_h5,
    ".pt": _read_pt,
}
