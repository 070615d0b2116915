"""A whole index: of everything that a store has, or of a folder with bags and the reports to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from histgen_lib.bags import read_bag
from histgen_lib.catalogue.keys import ReportOwner
from histgen_lib.errors import InvalidInputError
from histgen_lib.files import sha256_hex
from histgen_lib.retrieval import CaseEntry
from histgen_lib.retrieval.encoding import encode_bag, encode_text
from histgen_lib.retrieval.standing import entries_of, owners_in, standing_of
from histgen_lib.retrieval.subjects import Network
from histgen_lib.storage import ObjectStore
from histgen_lib.text.synoptic import parse_report

Fault = Callable[[str, InvalidInputError], None]
"""Called with the name of a case that is left out, and why."""


def stored_entries(store: ObjectStore, network: Network, fault: Fault) -> Iterator[CaseEntry]:
    """Yield every entry that the index should have, by the store; one case in memory at a time.

    Raises what store and inference server raise, except for a single case that cannot be read.
    """
    for owner in owners_in(store):
        try:
            if standing := standing_of(store, owner):
                yield from entries_of(store, network, standing)
        except InvalidInputError as error:
            fault(str(owner), error)


def folder_entries(
    cases: Sequence[tuple[str, str, Sequence[Path]]],
    network: Network,
    fault: Fault,
    *,
    synthetic: bool = False,
) -> Iterator[CaseEntry]:
    """Yield the entries of cases that people have reported: id, report, and the files of the slides' bags.

    Raises what the inference server raises, except for a single case that cannot be read.
    """
    for case_id, report, paths in cases:
        owner = ReportOwner(case_id, is_case=len(paths) > 1)
        fields = parse_report(report)
        try:
            words = encode_text(network.server, network.words, report)
            for path in paths:
                bag = read_bag(path)
                yield CaseEntry(
                    slide_id=bag.slide_id if owner.is_case else case_id,
                    owner=owner.name,
                    report_digest=sha256_hex(report.encode()),
                    vectors=encode_bag(network.server, bag),
                    words=words,
                    text=report,
                    model=network.digest,
                    signed=True,
                    synthetic=synthetic,
                    organ=fields.get("organ", ""),
                    diagnosis=fields.get("diagnosis", ""),
                    case_id=case_id,
                )
        except InvalidInputError as error:
            fault(case_id, error)
