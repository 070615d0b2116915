"""What every inference server promises.

A server's test module subclasses `InferenceServerSuite` and provides the fixtures `server` (which serves
"tile_encoder" and "histgen") and `width` (of its features).
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.inference import InferenceServer

TILES = np.random.default_rng(0).integers(0, 256, size=(5, 64, 64, 3), dtype=np.uint8)


def bag(tiles: int, width: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(tiles)
    cells = np.arange(tiles)
    return {
        "features": rng.normal(size=(tiles, width)).astype(np.float16),
        "xy": (np.stack([cells % 9, cells // 9], axis=1) * 512).astype(np.int32),
    }


class InferenceServerSuite:
    """Behaviour that the pipeline relies on."""

    def test_it_is_ready_for_its_models_and_no_other(self, server: InferenceServer) -> None:
        assert server.ready("tile_encoder")
        assert server.ready("histgen")
        assert not server.ready("astrology")

    def test_it_names_what_computes_a_model_once_that_has_answered(self, server: InferenceServer) -> None:
        server.infer("tile_encoder", {"tiles": TILES})
        assert re.fullmatch(r"fake|onnx|triton:[a-z:-]+", server.engine("tile_encoder"))
        assert server.engine("astrology") in {"fake", "onnx", "triton"}

    def test_tiles_become_features(self, server: InferenceServer, width: int) -> None:
        features = server.infer("tile_encoder", {"tiles": TILES})["features"]
        assert (features.shape, features.dtype) == ((5, width), np.float16)
        assert np.isfinite(features).all()

    def test_the_features_of_a_tile_do_not_depend_on_its_batch(self, server: InferenceServer) -> None:
        many = np.concatenate([TILES] * 15)
        together = server.infer("tile_encoder", {"tiles": many})["features"]
        alone = server.infer("tile_encoder", {"tiles": TILES[2:3]})["features"]
        assert together[72].tobytes() == alone[0].tobytes()

    @pytest.mark.parametrize("tiles", [1, 7, 8, 100])
    def test_a_bag_becomes_tokens_with_evidence(
        self, server: InferenceServer, width: int, tiles: int
    ) -> None:
        found = server.infer("histgen", bag(tiles, width))
        length = len(found["tokens"])
        assert {name: (value.shape, value.dtype.name) for name, value in found.items()} == {
            "tokens": ((length,), "int32"),
            "logprobs": ((length,), "float32"),
            "evidence": ((length, tiles), "float32"),
            "score": ((1,), "float32"),
        }
        assert (found["tokens"] > 0).all()
        assert (found["logprobs"] <= 0).all()
        assert (found["evidence"] >= 0).all()
        assert np.allclose(found["evidence"].sum(axis=1), 1.0, atol=1e-5)

    def test_the_same_bag_gives_the_same_bytes(self, server: InferenceServer, width: int) -> None:
        first, second = (server.infer("histgen", bag(30, width)) for _ in range(2))
        assert {name: value.tobytes() for name, value in first.items()} == {
            name: value.tobytes() for name, value in second.items()
        }

    def test_a_case_of_several_slides_gives_one_report(self, server: InferenceServer, width: int) -> None:
        case = bag(40, width) | {"slide": np.repeat([0, 1, 2], [7, 30, 3]).astype(np.int32)}
        found = server.infer("histgen", case)
        assert found["evidence"].shape[1] == 40
        assert np.allclose(found["evidence"].sum(axis=1), 1.0, atol=1e-5)

    def test_a_case_of_one_slide_equals_that_slide(self, server: InferenceServer, width: int) -> None:
        case = bag(40, width) | {"slide": np.zeros(40, dtype=np.int32)}
        one, same = server.infer("histgen", bag(40, width)), server.infer("histgen", case)
        assert {name: value.tobytes() for name, value in one.items()} == {
            name: value.tobytes() for name, value in same.items()
        }

    def test_the_length_limit_of_a_request_holds(self, server: InferenceServer, width: int) -> None:
        limited = bag(30, width) | {"max_tokens": np.array([3], dtype=np.int32)}
        assert len(server.infer("histgen", limited)["tokens"]) <= 3

    def test_sampling_follows_its_seed(self, server: InferenceServer, width: int) -> None:
        def draw(seed: int) -> list[int]:
            method = {
                "method": np.array(["sample"]),
                "seed": np.array([seed]),
                "temperature": np.array([3.0]),
            }
            tokens: list[int] = server.infer("histgen", bag(30, width) | method)["tokens"].tolist()
            return tokens

        assert draw(1) == draw(1)
        assert len({tuple(draw(seed)) for seed in range(5)}) > 1

    def test_calls_from_several_threads_do_not_mix(self, server: InferenceServer, width: int) -> None:
        bags = [bag(tiles, width) for tiles in (3, 20, 41, 64)]
        expected = [server.infer("histgen", one)["score"][0] for one in bags]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda one: server.infer("histgen", one)["score"][0], bags))
        assert found == pytest.approx(expected, abs=1e-5)

    def test_metadata_describes_what_infer_takes_and_returns(
        self, server: InferenceServer, width: int
    ) -> None:
        for model, tensors in {"tile_encoder": {"tiles": TILES}, "histgen": bag(9, width)}.items():
            described = server.metadata(model)
            needed = {spec.name for spec in described.inputs if not spec.optional}
            answer = server.infer(model, tensors)
            assert described.name == model
            assert described.version
            assert needed == set(tensors)
            assert {spec.name: spec.dtype for spec in described.outputs} == {
                name: value.dtype.name for name, value in answer.items()
            }

    def test_an_unknown_model_is_refused(self, server: InferenceServer) -> None:
        for call in (lambda: server.infer("astrology", {}), lambda: server.metadata("astrology")):
            with pytest.raises(FatalError) as caught:
                call()
            assert caught.value.code == "inference-model-unknown"

    @pytest.mark.parametrize(
        ("changes", "code"),
        [
            ({"features": None}, "tensor-missing"),
            ({"xy": None}, "tensor-missing"),
            ({"features": np.zeros((4, 3), dtype=np.float32)}, "bag-shape"),
            ({"xy": np.zeros((3, 2), dtype=np.int32)}, "bag-shape"),
            ({"beam_size": np.array([0], dtype=np.int32)}, "decoding-settings"),
            ({"seed": np.array([1, 2])}, "decoding-settings"),
            ({"slide": np.array([1, 0], dtype=np.int32)}, "bag-shape"),
            ({"features": np.array([["a"] * 4] * 9)}, "bag-shape"),
            ({"beam_size": np.array([2.5])}, "decoding-settings"),
            ({"max_tokens": np.array([2**40])}, "decoding-settings"),
            ({"method": np.array(["guess"])}, "decoding-settings"),
            ({"beamsize": np.array([2])}, "tensor-unknown"),
        ],
    )
    def test_a_bag_that_does_not_fit_is_refused(
        self, server: InferenceServer, width: int, changes: dict[str, np.ndarray | None], code: str
    ) -> None:
        tensors = {name: value for name, value in (bag(9, width) | changes).items() if value is not None}
        with pytest.raises(InvalidInputError) as caught:
            server.infer("histgen", tensors)
        assert caught.value.code == code

    def test_a_bag_without_tiles_or_with_nonsense_is_refused(
        self, server: InferenceServer, width: int
    ) -> None:
        nonsense = bag(9, width)
        nonsense["features"][3, 0] = np.nan
        for tensors, code in ((bag(0, width), "bag-empty"), (nonsense, "bag-not-finite")):
            with pytest.raises(InvalidInputError) as caught:
                server.infer("histgen", tensors)
            assert caught.value.code == code

    @pytest.mark.parametrize(
        "tiles",
        [
            np.zeros((2, 64, 64), dtype=np.uint8),
            np.zeros((2, 64, 64, 3), dtype=np.float32),
            np.zeros((2, 32, 32, 3), dtype=np.uint8),
            TILES[:0],
        ],
    )
    def test_tiles_that_do_not_fit_are_refused(self, server: InferenceServer, tiles: np.ndarray) -> None:
        with pytest.raises(InvalidInputError) as caught:
            server.infer("tile_encoder", {"tiles": tiles})
        assert caught.value.code == "tensor-shape"
