"""A slide's output folder: it holds all of the slide's files or none, and never those of another slide."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from histgen_lib.bags import Bag, read_bag, write_bag
from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError
from histgen_lib.names import place_in
from histgen_lib.reports.record import DraftReport
from histgen_lib.reports.renderers import DRAFT_HTML, DRAFT_JSON, DRAFT_TEXT, SIMILAR, RenderedFile
from histgen_lib.reports.renderers.draft_json import from_json
from histgen_lib.reports.renderers.similar_json import to_json as similar_json
from histgen_lib.reports.renderers.text import to_text

BAG = "bag.parquet"


class OutputPlaces:
    """Assigns each input a place of its own directly below `root` for its results.

    The only way from a slide's or bag's id to a folder or file of results. `suffix`: for single files.
    """

    def __init__(self, root: Path, suffix: str = "") -> None:
        self.root, self._suffix = root, suffix
        self._owners: dict[Path, Path] = {}

    def claim(self, name: str, source: Path) -> Path:
        """Return the place for `name`, made safe. InvalidInputError("output-other-slide") if it is taken."""
        place = place_in(self.root, name, self._suffix)
        owner = self._owners.setdefault(place, source)
        if owner.absolute() != source.absolute():
            raise InvalidInputError(
                "output-other-slide",
                f"{source} and {owner} would both be written to {place}.",
                hint="Use different --out folders, or rename one of them.",
            )
        return place


def write_outputs(folder: Path, files: Sequence[RenderedFile], bag: Bag) -> bool:
    """Write a draft's files and its bag into `folder`; False if they were there already, byte for byte.

    A new folder appears complete or not at all. In a folder that exists each file is replaced at once, the
    last of `files` last, and files of other names are left alone. Raises FatalError("output-unwritable"),
    TransientError("output-disk-full").
    """
    with _translated(folder), _staging(folder) as staged:
        write_bag(bag, staged / BAG)
        for file in files:
            (staged / file.name).write_bytes(file.data)
        return _publish(staged, folder, [BAG, *(file.name for file in files)])


def finished_draft(folder: Path, inputs_digest: str) -> DraftReport | None:
    """Return the draft in `folder` if it has these inputs and all its files are intact; else None."""
    draft = existing_draft(folder)
    if draft is None or draft.provenance.inputs_digest != inputs_digest:
        return None
    try:
        whole = (
            (folder / DRAFT_TEXT).read_text(encoding="utf-8") == to_text(draft)
            and (draft.similar is None or (folder / SIMILAR).read_bytes() == similar_json(draft.similar))
            and (folder / DRAFT_HTML).read_bytes().rstrip().endswith(b"</html>")
            and read_bag(folder / BAG).digest == draft.provenance.bag_digest
        )
    except (OSError, UnicodeDecodeError, HistgenError):
        return None
    return draft if whole else None


def existing_draft(folder: Path) -> DraftReport | None:
    """Return the draft in `folder`; None if there is none that can be read."""
    try:
        return from_json((folder / DRAFT_JSON).read_bytes())
    except (OSError, InvalidInputError):
        return None


def check_owner(folder: Path, content_id: str | None, bag_digest: str | None = None) -> None:
    """Refuse a folder that holds the draft of another slide or another bag of the same name.

    `content_id`: of the slide; None if there is only a bag, with `bag_digest`.
    Raises InvalidInputError("output-other-slide").
    """
    draft = existing_draft(folder)
    if draft is None:
        return
    provenance = draft.provenance
    same_bag = bag_digest is None or provenance.bag_digest == bag_digest
    if provenance.slide.content_id != content_id or not same_bag:
        raise InvalidInputError(
            "output-other-slide",
            f"{folder} already holds the draft of another slide or bag that is also called {draft.slide_id}.",
            hint="Use another --out folder, rename the slide, or use --overwrite to replace the old draft.",
        )


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        staged.chmod(0o755)
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _publish(staged: Path, folder: Path, names: Sequence[str]) -> bool:
    if not folder.exists():
        try:
            staged.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process was faster: continue file by file
                raise
        else:
            return True
    changed = False
    for name in names:
        target = folder / name
        if not target.is_file() or target.read_bytes() != (staged / name).read_bytes():
            (staged / name).replace(target)
            changed = True
    return changed


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TransientError(
                "output-disk-full",
                f"The disk that holds {folder.parent} is full.",
                hint="Free space on it, then run the command again.",
            ) from error
        raise FatalError(
            "output-unwritable",
            f"Nothing can be written to {folder.parent} ({error.strerror or error}).",
            hint="Use an --out folder that you can write to.",
        ) from error
