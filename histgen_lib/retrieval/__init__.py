"""The case index: which cases look, or read, like this one.

`CaseIndex` is the port; `open_case_index` opens the one on LanceDB, in a folder or in S3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from histgen_lib.lazy import lazily
from histgen_lib.retrieval._maxsim import pairs_of
from histgen_lib.retrieval._port import (
    CaseEntry,
    CaseIndex,
    CaseIndexSettings,
    Filters,
    Floats,
    Hit,
    IndexState,
    Pair,
    Query,
    Vectors,
)

if TYPE_CHECKING:
    from histgen_lib.retrieval._lance import open_case_index

__all__ = [
    "CaseEntry",
    "CaseIndex",
    "CaseIndexSettings",
    "Filters",
    "Floats",
    "Hit",
    "IndexState",
    "Pair",
    "Query",
    "Vectors",
    "open_case_index",
    "pairs_of",
]

__getattr__ = lazily(__name__, {"_lance": "open_case_index"})
