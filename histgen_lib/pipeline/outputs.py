"""A slide's output folder: all of its files or none, and never another slide's."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from histgen_lib.bags import Bag, read_bag, write_bag
from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError
from histgen_lib.reports.record import DraftReport
from histgen_lib.reports.render_json import from_json, to_json
from histgen_lib.reports.render_text import to_text

DRAFT_JSON, DRAFT_TEXT, DRAFT_HTML, BAG = "draft.json", "draft.txt", "draft.html", "bag.parquet"


def write_outputs(folder: Path, draft: DraftReport, html: str, bag: Bag) -> bool:
    """Write a draft's four files into `folder`; False if they already were there, byte for byte.

    A new folder appears complete or not at all. In a folder that exists each file is replaced at once,
    draft.json last, and files of other names are left alone. Raises FatalError("output-unwritable"),
    TransientError("output-disk-full").
    """
    with _translated(folder), _staging(folder) as staged:
        write_bag(bag, staged / BAG)
        (staged / DRAFT_HTML).write_text(html, encoding="utf-8")
        (staged / DRAFT_TEXT).write_text(to_text(draft), encoding="utf-8")
        (staged / DRAFT_JSON).write_bytes(to_json(draft))
        return _publish(staged, folder)


def finished_draft(folder: Path, inputs_digest: str) -> DraftReport | None:
    """Return the draft in `folder` if it was made from these inputs and its files are whole; else None."""
    draft = existing_draft(folder)
    if draft is None or draft.provenance.inputs_digest != inputs_digest:
        return None
    try:
        whole = (
            (folder / DRAFT_TEXT).read_text(encoding="utf-8") == to_text(draft)
            and (folder / DRAFT_HTML).read_bytes().rstrip().endswith(b"</html>")
            and read_bag(folder / BAG).digest == draft.provenance.bag_digest
        )
    except (OSError, UnicodeDecodeError, HistgenError):
        return None
    return draft if whole else None


def existing_draft(folder: Path) -> DraftReport | None:
    """Return the draft in `folder`, or None if there is none that can be read."""
    try:
        return from_json((folder / DRAFT_JSON).read_bytes())
    except (OSError, InvalidInputError):
        return None


def check_owner(folder: Path, content_id: str | None) -> None:
    """Refuse a folder that holds the draft of other pixels: two slides must not share a name.

    Raises InvalidInputError("output-other-slide").
    """
    draft = existing_draft(folder)
    if draft is not None and draft.provenance.slide.content_id != content_id:
        raise InvalidInputError(
            "output-other-slide",
            f"{folder} already holds the draft of another slide that is also called {draft.slide_id}.",
            hint="Give another --out folder, rename the slide, or use --overwrite if the old draft may go.",
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


def _publish(staged: Path, folder: Path) -> bool:
    if not folder.exists():
        try:
            staged.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster: go on file by file
                raise
        else:
            return True
    changed = False
    for name in (BAG, DRAFT_HTML, DRAFT_TEXT, DRAFT_JSON):
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
                hint="Make room, then run the command again.",
            ) from error
        raise FatalError(
            "output-unwritable",
            f"Nothing can be written to {folder.parent} ({error.strerror or error}).",
            hint="Give --out a folder that you may write to.",
        ) from error
