"""What is asked about, as vectors: a slide of the index or the store, a region of it, or words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histgen_lib.bags import Bag, unpack_bag
from histgen_lib.catalogue import keys
from histgen_lib.catalogue.keys import ReportOwner
from histgen_lib.catalogue.registry import find_announcement
from histgen_lib.errors import InvalidInputError
from histgen_lib.files import unsealed_object
from histgen_lib.inference import InferenceServer
from histgen_lib.retrieval._port import CaseEntry, Floats, Vectors
from histgen_lib.retrieval.encoding import Box, Vocabulary, encode_bag, encode_text
from histgen_lib.retrieval.questions import empty_region, unknown_slide
from histgen_lib.storage import ObjectInfo, ObjectStore, check_key
from histgen_lib.text.synoptic import split_sentences

if TYPE_CHECKING:
    from histgen_lib.models.folder import ModelFolder

MOST_SENTENCES = 32
"""Sentences of a text that are compared with regions, one by one; the text as a whole is compared anyway."""


@dataclass(frozen=True)
class Network:
    """A retrieval network: who runs it, its vocabulary, and its digest.

    `encoder_sha256`, `encoder_settings`: of the tile encoder whose features it reads, "" if unknown.
    """

    server: InferenceServer
    words: Vocabulary
    digest: str
    encoder_sha256: str = ""
    encoder_settings: str = ""

    def reads(self, bag: Bag) -> bool:
        """Return whether a bag's features are of the encoder that the network was trained with."""
        pairs = (
            (self.encoder_sha256, bag.encoder_sha256),
            (self.encoder_settings, bag.encoder_settings),
        )
        return all(not ours or not its or ours == its for ours, its in pairs)


@dataclass(frozen=True, eq=False)
class Part:
    """A part of what is asked about: a box of its slide, or one of its sentences. `vector` float32[d]."""

    vector: Floats
    box: Box | None = None
    words: str = ""


@dataclass(frozen=True)
class Own:
    """What is no answer to a question about a slide: the reports of these owners, and slides of its case."""

    owners: frozenset[str] = frozenset()
    case_id: str = ""

    def has(self, entry: CaseEntry) -> bool:
        """Whether an entry is the slide's own case, if only by a label that both slides came with."""
        return entry.owner in self.owners or bool(self.case_id and entry.case_id == self.case_id)

    @classmethod
    def of(cls, entry: CaseEntry) -> Own:
        """Return what is the own of a slide in the index."""
        return cls(frozenset({entry.owner, entry.slide_id}), entry.case_id)


@dataclass(frozen=True, eq=False)
class Subject:
    """What is asked about.

    `whole` float32[1, d]: all of it in one vector. `parts`: what evidence is shown for. `own`: what is no
    answer. `source`: "index" for vectors as they are stored, "bag" for those of the slide's tiles, "text".
    """

    whole: Floats
    parts: tuple[Part, ...]
    own: Own
    source: str

    def vectors(self, which: str) -> Floats:
        """Return float32[Q, d]: "whole", or those of the "parts"."""
        return self.whole if which == "whole" else np.stack([part.vector for part in self.parts])


def subject_of_text(network: Network, text: str) -> Subject:
    """Encode a text as a whole and, if it has several sentences, each of them. Raises as `encode_text`."""
    whole = encode_text(network.server, network.words, text)
    sentences = [text[start:end] for start, end in split_sentences(text)]
    if len(sentences) == 1:
        parts = [Part(whole, words=sentences[0])]
    else:
        vectors = (encode_text(network.server, network.words, one) for one in sentences[:MOST_SENTENCES])
        parts = [Part(vector, words=one) for vector, one in zip(vectors, sentences, strict=False)]
    return Subject(whole[None], tuple(parts), Own(), "text")


def subject_of_entry(entry: CaseEntry, box: Box | None) -> Subject:
    """Take a slide's stored vectors, or with `box` the mean of those of its regions that overlap it.

    Raises InvalidInputError("query-region-empty").
    """
    vectors = entry.vectors
    if box is None:
        return Subject(vectors.slide[None], tuple(_parts(vectors)), Own.of(entry), "index")
    inside = [part for part in _parts(vectors) if part.box and _overlap(part.box, box)]
    if not inside:
        raise empty_region()
    mean = np.mean([part.vector for part in inside], axis=0)
    whole = (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)
    return Subject(whole[None], tuple(inside), Own.of(entry), "index")


def subject_of_bag(network: Network, bag: Bag, own: Own, box: Box | None) -> Subject:
    """Encode a slide's tiles, or those in `box`. Raises as `encode_bag`, and "bag-other-encoder"."""
    if not network.reads(bag):
        raise _other_encoder(bag)
    vectors = encode_bag(network.server, bag, box)
    return Subject(vectors.slide[None], tuple(_parts(vectors)), own, "bag")


def bag_in_store(store: ObjectStore, network: Network, slide_id: str) -> tuple[Bag, Own]:
    """Return the bag of a slide's latest scan, else its newest one, and what is the slide's own.

    Raises InvalidInputError("query-slide-unknown"), "bag-other-encoder", and what storage and bags raise.
    """
    if "/" in slide_id or not _keys_allow(slide_id):
        raise unknown_slide()
    announced = find_announcement(store, slide_id)
    content_id = announced.data.content_id if announced else ""
    owner = ReportOwner.of(announced.data).name if announced else slide_id
    own = Own(frozenset({slide_id, owner}), (announced.data.case_id or "") if announced else "")
    refused: Bag | None = None
    for record in sorted(_scans(store, slide_id), key=lambda one: _rank(store, one, content_id)):
        bag = unpack_bag(store.get(_bag_beside(record)), "the slide's bag")
        if bag.slide_id == slide_id and network.reads(bag):
            return bag, own
        refused = refused or bag
    raise _other_encoder(refused) if refused else unknown_slide()


def _keys_allow(slide_id: str) -> bool:
    """Return whether a slide's id can be part of an object's key."""
    try:
        return bool(check_key(keys.scanned_key(slide_id)))
    except InvalidInputError:
        return False


def _scans(store: ObjectStore, slide_id: str) -> Iterator[ObjectInfo]:
    listed = store.list(keys.bags_prefix(slide_id))
    return (info for info in listed if info.key.endswith(keys.SCAN_RECORD))


def _rank(store: ObjectStore, record: ObjectInfo, content_id: str) -> tuple[bool, float, str]:
    """Sort those of the latest scan first, then the newest."""
    scan: dict[str, Any] = unsealed_object(store.find(record.key)) if content_id else {}
    return scan.get("content_id", "") != content_id, -record.modified_at, record.key


def _bag_beside(record: ObjectInfo) -> str:
    return f"{record.key.removesuffix(keys.SCAN_RECORD)}.parquet"


def _parts(vectors: Vectors) -> Iterator[Part]:
    for vector, box in zip(vectors.regions, vectors.boxes, strict=True):
        x, y, width, height = (int(side) for side in box)
        yield Part(vector, (x, y, width, height))


def _overlap(one: Box, other: Box) -> bool:
    return all(
        one[axis] < other[axis] + other[axis + 2] and other[axis] < one[axis] + one[axis + 2]
        for axis in (0, 1)
    )


def _other_encoder(bag: Bag) -> InvalidInputError:
    """Make the error for a bag that the network cannot read."""
    return InvalidInputError(
        "bag-other-encoder",
        f"The bag holds features of {bag.encoder_name or 'another encoder'}, which the model does not read.",
        hint="Encode the slide again with the tile encoder of this model.",
    )


def network_of(folder: ModelFolder, server: InferenceServer) -> Network | None:
    """Return the retrieval network of a model folder; None if it has none.

    Raises FatalError for one that cannot be used.
    """
    if not folder.retrieval_digest:
        return None
    from histgen_lib.models.fgcr.words import load_words

    return Network(
        server,
        load_words(folder),
        folder.retrieval_digest,
        str(folder.encoder.get("sha256", "")),
        folder.encoder_settings,
    )
