"""A slide's tiles and a report's words reach the networks that make their vectors, and nothing else does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from histgen_lib.bags import Bag
from histgen_lib.errors import InvalidInputError
from histgen_lib.retrieval.encoding import encode_bag, encode_text

FEATURES = np.random.default_rng(0).normal(size=(12, 16)).astype(np.float16)
PLACES = np.array([(x * 512, y * 512) for y in range(3) for x in range(4)], np.int32)
BAG = Bag("a", FEATURES, PLACES, 512, 256, 0.5, 0.25, (2048, 1536), "", "")
"""Twelve tiles of 512 px, four in a row."""
NO_PLACES = replace(BAG, span_px=float("nan"), xy=PLACES * 0)


class Asked:
    """A server that keeps what it was asked."""

    def infer(self, model, tensors):
        self.model, self.tensors = model, tensors
        image = {name: tensors.get("xy") for name in ("slide", "regions", "boxes")}
        return image | {"vector": tensors.get("tokens")}


class Letters:
    def encode(self, text):
        return np.array([ord(letter) for letter in text], np.int32)


def test_a_slide_is_asked_for_with_all_its_tiles_and_their_side():
    asked = Asked()
    vectors = encode_bag(asked, BAG)

    assert asked.model == "fgcr_image"
    assert np.array_equal(asked.tensors["features"], BAG.features)
    assert np.array_equal(vectors.boxes, BAG.xy)
    assert asked.tensors["span_px"] == np.float32([512])


def test_a_bag_that_does_not_know_its_tiles_side_states_none():
    asked = Asked()
    encode_bag(asked, NO_PLACES)
    assert asked.tensors.keys() == {"features", "xy"}


@pytest.mark.parametrize(
    ("box", "rows"),
    [
        ((0, 0, 2048, 1536), list(range(12))),
        ((0, 0, 512, 512), [0]),
        ((511, 511, 2, 2), [0, 1, 4, 5]),
        ((512, 512, 1, 1), [5]),
        ((1800, 1200, 9999, 9999), [11]),
        ((-300, -300, 301, 301), [0]),
    ],
)
def test_a_box_takes_the_tiles_whose_squares_overlap_it(box, rows):
    asked = Asked()
    encode_bag(asked, BAG, box)
    assert np.array_equal(asked.tensors["xy"], BAG.xy[rows])
    assert np.array_equal(asked.tensors["features"], BAG.features[rows])


@pytest.mark.parametrize(
    "box", [(2048, 0, 5, 5), (0, 1536, 5, 5), (-9, 0, 9, 9), (5, 5, 0, 5), (5, 5, 5, -1), (10**12, 0, 1, 1)]
)
def test_a_box_outside_the_slide_is_refused(box):
    with pytest.raises(InvalidInputError, match="2048 x 1536") as caught:
        encode_bag(Asked(), BAG, box)
    assert caught.value.code == "query-region-outside"


@pytest.mark.parametrize("bag", [replace(BAG, slide_size=(9000, 9000)), NO_PLACES])
def test_a_box_without_tissue_is_refused(bag):
    with pytest.raises(InvalidInputError) as caught:
        encode_bag(Asked(), bag, (3000, 3000, 500, 500))
    assert caught.value.code == "query-region-empty"


def test_words_are_numbered_by_the_models_vocabulary():
    asked = Asked()
    assert list(encode_text(asked, Letters(), "ab")) == [97, 98]
    assert asked.model == "fgcr_text"
