"""An index searched in this process, without services: what researchers do with a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from histgen_lib.bags import Bag
from histgen_lib.errors import InvalidInputError
from histgen_lib.inference import open_inference
from histgen_lib.models.folder import open_model_folder
from histgen_lib.retrieval import open_case_index
from histgen_lib.retrieval._port import CaseIndexSettings
from histgen_lib.retrieval.searching import Searcher
from histgen_lib.retrieval.subjects import network_of
from histgen_lib.storage import StorageSettings


@contextmanager
def open_local(index: str, model: Path, bag: Bag | None = None) -> Iterator[Searcher]:
    """Open an index, a folder or "s3://bucket/prefix", with the model that filled it.

    `bag`: the slide that is asked about, if it is not in the index. Raises
    InvalidInputError("case-index-missing"), and what opening index and model raises.
    """
    storage = StorageSettings(index_url(index))
    network = network_of(open_model_folder(model), open_inference("onnx", model))
    with closing(open_case_index(CaseIndexSettings(storage))) as opened:
        yield Searcher(opened, network, bag=bag)


def index_url(index: str, *, new: bool = False) -> str:
    """Return where an index is: "s3://bucket/prefix", or a folder, which exists unless the index is `new`.

    Raises InvalidInputError("case-index-missing").
    """
    if index.startswith("s3://"):
        return index
    folder = Path(index.removeprefix("file:"))
    if not new and not folder.is_dir():
        raise InvalidInputError(
            "case-index-missing",
            f"There is no case index at {folder}.",
            hint="Give the folder that HISTGEN_CASE_INDEX names, or one that a stack or a script has filled.",
        )
    return f"file:{folder.absolute()}"
