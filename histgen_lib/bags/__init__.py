"""Features: the bag of all tile features of one slide, in memory and in files.

Our own layout is Parquet. Other tools' layouts are read by suffix; each is a module of its own, loaded when a
file of that layout is read.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from histgen_lib.bags.bag import Bag, Maker, maker_of, unreadable
from histgen_lib.errors import InvalidInputError, TransientError
from histgen_lib.names import safe_id

__all__ = [
    "BAG_SUFFIXES",
    "Bag",
    "Maker",
    "maker_of",
    "pack_bag",
    "read_bag",
    "read_maker",
    "unpack_bag",
    "write_bag",
]

BAG_SUFFIXES = (".parquet", ".h5", ".pt")


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
    """Read what `pack_bag` returned, its slide's id as it is; `name` is what errors call the bag.

    Raises `InvalidInputError`: `bag-unreadable`, `bag-schema-newer`, `bag-too-large`, `bag-invalid`.
    """
    from histgen_lib.bags import _parquet

    return _parquet.unpack(data, name)


def read_bag(path: str | Path) -> Bag:
    """Read a bag: `.parquet` (ours), `.h5` (CLAM, TRIDENT, STAMP), `.pt` (HistGen, CLAM).

    The slide's name in the file is made safe, as a slide's file name is: folders are named after it.

    Raises `InvalidInputError`: `bag-missing`, `bag-unreadable` (damaged, or another layout),
    `bag-format-unknown` (suffix), `bag-schema-newer`, `bag-too-large`, `bag-invalid` (its content);
    `FatalError("bag-needs-torch")` for `.pt` without torch.
    """
    path = Path(path)
    if path.suffix.lower() not in BAG_SUFFIXES:
        raise InvalidInputError(
            "bag-format-unknown",
            f"{path.name} is not a bag that can be read.",
            hint=f"Give a file that ends in {', '.join(BAG_SUFFIXES)}.",
        )
    if path.exists() and not path.is_file():
        raise unreadable(path.name, "it is not a regular file")
    if not path.is_file():
        raise InvalidInputError(
            "bag-missing", f"There is no bag {path.name}.", hint="Check the path for a typing error."
        )
    bag = _read(path)
    slide_id = safe_id(bag.slide_id)
    return bag if bag.slide_id == slide_id else replace(bag, slide_id=slide_id)


def read_maker(path: Path) -> Maker:
    """Return what made a bag; of our own files only the metadata is read. Raises as `read_bag`."""
    if path.suffix.lower() != ".parquet":
        return maker_of(read_bag(path))
    from histgen_lib.bags import _parquet

    return _parquet.read_maker(path)


def _read(path: Path) -> Bag:
    """Read a bag by the layout that its suffix names."""
    suffix = path.suffix.lower()
    if suffix == ".h5":
        from histgen_lib.bags import _h5

        return _h5.read(path)
    if suffix == ".pt":
        from histgen_lib.bags import _pt

        return _pt.read(path)
    from histgen_lib.bags import _parquet

    return _parquet.read(path)
