"""Cases whose vectors are words: an index, a store and networks in memory that agree on eight of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from histgen_lib.bags import Bag, pack_bag
from histgen_lib.catalogue import keys
from histgen_lib.files import sha256_hex
from histgen_lib.retrieval import CaseEntry, Vectors
from histgen_lib.retrieval.encoding import IMAGE, TEXT
from histgen_lib.retrieval.searching import Searcher
from histgen_lib.retrieval.subjects import Network
from histgen_lib.testing import MemoryCaseIndex, MemoryStore

WORDS = ("breast", "colon", "tumour", "necrosis", "mitoses", "stroma", "glands", "other")
"""Each is a direction: a tile shows one of them, and a text is about those that it names."""
SPAN_PX = 256
MODEL = "m" * 64
ENCODER = "e" * 64


def axis(word: str) -> npt.NDArray[np.float32]:
    """Return the unit vector of a word."""
    return np.eye(len(WORDS), dtype=np.float32)[WORDS.index(word if word in WORDS else "other")]


def unit(vector: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Scale to unit length."""
    return (vector / np.linalg.norm(vector)).astype(np.float32)


class Vocabulary:
    """Numbers words by their direction."""

    def encode(self, text: str) -> npt.NDArray[np.int32]:
        plain = "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()
        return np.array([int(axis(word).argmax()) for word in plain] or [len(WORDS) - 1], np.int32)


class Networks:
    """In place of the model server: a region is a tile, a text the sum of its words. `error`: as if away."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.calls: list[str] = []

    def infer(self, model: str, tensors: Any) -> dict[str, npt.NDArray[Any]]:
        self.calls.append(model)
        if self.error:
            raise self.error
        if model == TEXT:
            return {"vector": unit(sum(axis(WORDS[int(token)]) for token in tensors["tokens"]))}
        assert model == IMAGE
        features, xy = np.float32(tensors["features"])[:25], tensors["xy"][:25]
        boxes = np.concatenate([xy, np.full_like(xy, SPAN_PX)], axis=1)
        return {"slide": unit(features.mean(axis=0)), "regions": features, "boxes": np.int32(boxes)}

    def warm(self, model: str) -> None:
        if self.error:
            raise self.error

    def ready(self, model: str) -> bool:
        return self.error is None

    def metadata(self, model: str) -> Any:
        raise NotImplementedError

    def engine(self, model: str) -> str:
        return "words"


def bag_of(slide_id: str, shown: Sequence[str], encoder: str = ENCODER) -> Bag:
    """Make the bag of a slide with one tile a word, from left to right; "" for glass, which has no tile."""
    tissue = [(column, word) for column, word in enumerate(shown) if word]
    return Bag(
        slide_id=slide_id,
        features=np.stack([axis(word) for _, word in tissue]).astype(np.float16),
        xy=np.array([[SPAN_PX * column, 0] for column, _ in tissue], np.int32),
        span_px=float(SPAN_PX),
        tile_px=SPAN_PX,
        mpp=0.5,
        slide_mpp=0.5,
        slide_size=(SPAN_PX * len(shown), SPAN_PX),
        encoder_name="words",
        encoder_sha256=encoder,
    )


class SearchLab:
    """An index, a store and networks, with a searcher on them."""

    def __init__(self, index: Any = None, store: Any = None) -> None:
        self.index = MemoryCaseIndex() if index is None else index
        self.store = MemoryStore() if store is None else store
        self.networks = Networks()
        self.network = Network(self.networks, Vocabulary(), MODEL, ENCODER)
        self.withdrawn: set[str] = set()
        self.searcher = Searcher(self.index, self.network, self.store, withdrawn=lambda: self.withdrawn)

    def case(self, slide_id: str, shown: Sequence[str], text: str = "", **more: Any) -> CaseEntry:
        """Put a slide with its report into the index; the report says what is shown, unless stated."""
        answer = self.networks.infer(IMAGE, vars(bag_of(slide_id, shown)))
        text = text or " ".join(shown)
        words = self.networks.infer(TEXT, {"tokens": Vocabulary().encode(text)})["vector"]
        fields = {"owner": slide_id, "report_digest": sha256_hex(slide_id.encode()), "model": MODEL} | more
        vectors = Vectors(answer["slide"], answer["regions"], answer["boxes"])
        entry = CaseEntry(slide_id=slide_id, vectors=vectors, words=words, text=text, **fields)
        self.index.put([entry])
        return entry

    def bag(self, slide_id: str, shown: Sequence[str], **more: Any) -> Bag:
        """Put a slide's bag into the store, as the tiler does."""
        return self.stored(bag_of(slide_id, shown, **more))

    def stored(self, bag: Bag) -> Bag:
        """Put a bag into the store."""
        self.store.put(keys.bag_key(bag.slide_id, bag.digest), pack_bag(bag))
        self.store.put(keys.scan_key(bag.slide_id, bag.digest), b"{}")
        return bag
