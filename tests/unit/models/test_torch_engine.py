"""The report model and the tile encoder by torch write what the CPU's graphs write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from small_histgen import SIZES, small_model
from tiny_model import tiny_model

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.models.captured import captured, size_class
from histgen_lib.models.devices import onnx_providers, torch_device
from histgen_lib.models.folder import open_model_folder
from histgen_lib.models.histgen import HistGen, torch_search
from histgen_lib.models.histgen.batches import BatchedRunner
from histgen_lib.models.histgen.decoding import Decoded, DecodingSettings
from histgen_lib.models.histgen.layout import Arrangement, arrange
from histgen_lib.models.histgen.torch_encode import SlideEncoder
from histgen_lib.models.histgen.torch_engine import TorchEngine
from histgen_lib.models.histgen.torch_search import Searches
from histgen_lib.models.serving import Compute, OnnxSession, Runner, served_model
from histgen_lib.models.tile_encoder.serving import TILE_ENCODER_ONNX, PaddedRunner

COUNTS = (3, 40, 17, 9, 1)
CPU = torch.device("cpu")
CHOICES = [
    DecodingSettings(max_tokens=12),
    DecodingSettings(max_tokens=30, beam_size=1),
    DecodingSettings(max_tokens=9, beam_size=5),
    DecodingSettings(max_tokens=12, method="greedy"),
    DecodingSettings(max_tokens=12, method="sample", seed=3),
]


def model(end: float = 0.8) -> HistGen:
    """Make a network whose texts end at different places."""
    network = small_model("corrected")
    with torch.no_grad():
        network.logit.bias[0] += end
    return network


def bags() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    for tiles in COUNTS:
        yield rng.normal(size=(tiles, SIZES["input_dim"])).astype(np.float32), rng.permutation(tiles)


def placed(features: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, Arrangement]:
    return features, arrange(order, SIZES["region_size"] - 1, SIZES["prototype_num"])


def by_network(network: HistGen, features: np.ndarray, order: np.ndarray, how: DecodingSettings) -> Decoded:
    rows = torch.from_numpy(features[order])[None]
    return network.generate_batch(rows, torch.ones(1, len(order), dtype=torch.bool), how)[0]


@pytest.mark.parametrize("how", CHOICES, ids=lambda how: f"{how.method}-{how.beam_size}")
def test_slides_together_get_the_texts_that_the_network_writes_for_each_alone(how: DecodingSettings) -> None:
    network = model()
    slides = list(bags())
    found = TorchEngine(network, CPU, torch.float32).write_many([placed(*bag) for bag in slides], how)
    lengths = set()
    for bag, written in zip(slides, found, strict=True):
        expected, text = by_network(network, *bag, how), written.text
        assert text.tokens.tolist() == expected.tokens.tolist()
        assert text.ended == expected.ended
        assert np.allclose(text.log_probs, expected.log_probs, atol=1e-4)
        assert text.attention.shape == expected.attention.shape
        assert np.allclose(text.attention, expected.attention, atol=1e-5)
        assert text.score == pytest.approx(expected.score, abs=1e-3)
        lengths.add(len(text.tokens))
    assert len(lengths) > 1


def test_a_search_is_used_again_for_slides_of_its_size() -> None:
    """What an earlier and larger slide left in the buffers is not seen by a later one."""
    network, how = model(), CHOICES[0]
    engine = TorchEngine(network, CPU, torch.float32)
    slides = list(bags())
    for bag in slides + slides[::-1]:
        expected = by_network(network, *bag, how)
        assert engine.write(*placed(*bag), how).text.tokens.tolist() == expected.tokens.tolist()


def test_searches_for_many_numbers_of_beams_share_words_and_keep_few_networks() -> None:
    searches = Searches(small_model("corrected"), CPU, torch.float32)
    steps = [searches._step(beams, 16) for beams in range(1, 9)]
    assert {id(step.embed) for step in steps} == {id(steps[0].embed)}
    assert len(searches._steps) < len(steps)
    assert searches._step(8, 16) is steps[-1]


def test_of_many_sizes_of_searches_the_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_search, "_KEPT_SEARCHES", 2)
    searches = Searches(small_model("corrected"), CPU, torch.float32)
    cross = SlideEncoder(small_model("corrected"), CPU, torch.float32)(*placed(*next(bags()))).cross
    first, second, third = (searches.load([cross], beams, 4) for beams in (1, 2, 3))
    assert searches.load([cross], 2, 4) is second
    assert searches.load([cross], 3, 4) is third
    assert searches.load([cross], 1, 4) is not first


def test_running_ahead_of_the_host_with_words_looked_up_changes_no_text() -> None:
    """As on a GPU: steps beyond a text's end are under way when the host finds that it has ended."""
    network, slides = model(), list(bags())
    engine = TorchEngine(network, CPU, torch.float32)
    engine._searches._ahead, engine._searches._tables = 4, True
    for how in CHOICES[:3]:
        for bag, written in zip(
            slides, engine.write_many([placed(*bag) for bag in slides], how), strict=True
        ):
            expected = by_network(network, *bag, how)
            assert written.text.tokens.tolist() == expected.tokens.tolist()
            assert np.allclose(written.text.attention, expected.attention, atol=1e-5)


def test_a_slide_that_is_no_numbers_leaves_nothing_behind() -> None:
    network, how = model(), CHOICES[0]
    engine = TorchEngine(network, CPU, torch.float32)
    bag = list(bags())[1]
    with pytest.raises(FatalError, match="not numbers"):
        engine.write(*placed(np.full_like(bag[0], np.nan), bag[1]), how)
    for search in engine._searches._kept.values():
        search._past.fill_(torch.nan)  # as a device does that was some words ahead
    expected = by_network(network, *bag, how)
    smaller = bag[0][:9], np.arange(9)
    assert engine.write(*placed(*smaller), how).text.tokens.tolist() == (
        by_network(network, *smaller, how).tokens.tolist()
    )
    assert engine.write(*placed(*bag), how).text.tokens.tolist() == expected.tokens.tolist()


def test_an_encoder_with_buffers_of_its_own_gives_what_one_without_gives() -> None:
    """That is how slides are encoded on a GPU, in one launch; what an earlier slide left must not show."""
    encode = SlideEncoder(model(), CPU, torch.float32)
    static = encode._static(16, torch.float32)
    slides = [placed(*bag) for bag in bags()]
    for features, places in [slides[1], (np.full_like(slides[1][0], np.nan), slides[1][1]), *slides]:
        found, expected = static(features, places), encode(features, places)
        for one, other in zip(found, expected, strict=True):
            assert torch.allclose(one, other, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_stay_near_float32(dtype: torch.dtype) -> None:
    network, bag = model(), placed(*next(bags()))
    how = DecodingSettings(max_tokens=1)
    expected = TorchEngine(network, CPU, torch.float32).write(*bag, how)
    found = TorchEngine(network, CPU, dtype).write(*bag, how)
    assert np.abs(found.tile_weights - expected.tile_weights).max() < 0.02
    assert found.text.score == pytest.approx(expected.text.score, abs=0.2)


def test_features_beyond_float16_are_refused_where_the_network_is_in_it() -> None:
    features, order = next(bags())
    features[0, 0] = 1e5
    with pytest.raises(InvalidInputError, match="float16") as caught:
        TorchEngine(model(), CPU, torch.float16).write(*placed(features, order), CHOICES[0])
    assert caught.value.code == "bag-not-finite"
    TorchEngine(model(), CPU, torch.bfloat16).write(*placed(features, order), CHOICES[0])


def test_weights_that_are_not_numbers_are_refused() -> None:
    network = model()
    with torch.no_grad():
        network.logit.weight[1] = torch.nan
    for how in CHOICES:
        with pytest.raises(FatalError) as caught:
            TorchEngine(network, CPU, torch.float32).write(*placed(*next(bags())), how)
        assert caught.value.code == "model-not-finite"


def test_more_beams_than_words_are_refused() -> None:
    with pytest.raises(InvalidInputError) as caught:
        TorchEngine(model(), CPU, torch.float32).write(
            *placed(*next(bags())), DecodingSettings(beam_size=SIZES["vocab_size"] + 2)
        )
    assert caught.value.code == "decoding-settings"


def runner(name: str, compute: Compute) -> Runner:
    return served_model(name).runner(open_model_folder(tiny_model()), compute)


def report_request(tiles: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(tiles)
    xy = np.stack([np.arange(tiles) % 7, np.arange(tiles) // 7], axis=1).astype(np.int32) * 64
    return {"features": rng.normal(size=(tiles, 16)).astype(np.float16), "xy": xy}


def test_a_served_model_answers_alike_in_a_half_type_alone_and_together() -> None:
    requests = [report_request(tiles) for tiles in (5, 30, 9)]
    requests[2]["max_tokens"] = np.array([4], dtype=np.int32)
    half = runner("histgen", Compute(precision="bfloat16"))
    assert isinstance(half, BatchedRunner)
    cpu = runner("histgen", Compute(threads=1))
    for request, together in zip(requests, half.infer_many(requests), strict=True):
        alone, expected = half.infer(request), cpu.infer(request)
        assert np.array_equal(alone["tokens"], together["tokens"])
        assert np.allclose(alone["evidence"], together["evidence"], atol=0.01)
        assert np.allclose(together["evidence"].sum(axis=1), 1.0, atol=1e-5)
        assert together["evidence"].shape[1] == expected["evidence"].shape[1]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_no_numbers_are_refused_whatever_their_type(value: float, dtype: type) -> None:
    request = report_request(5)
    request["features"] = request["features"].astype(dtype)
    request["features"][4, 3] = value
    with pytest.raises(InvalidInputError) as caught:
        runner("histgen", Compute(threads=1)).infer(request)
    assert caught.value.code == "bag-not-finite"


@pytest.mark.parametrize(("precision", "tolerance"), [("float16", 0.02), ("bfloat16", 0.1)])
def test_tiles_get_the_features_of_float32_in_a_half_type(precision: str, tolerance: float) -> None:
    tiles = np.random.default_rng(0).integers(0, 256, size=(11, 64, 64, 3), dtype=np.uint8)
    tiles.setflags(write=False)
    expected = runner("tile_encoder", Compute(threads=1)).infer({"tiles": tiles})["features"]
    half = runner("tile_encoder", Compute(precision=precision))
    found = half.infer({"tiles": tiles})["features"]
    assert (found.dtype, found.shape) == (np.float16, expected.shape)
    scale = np.abs(expected.astype(np.float32)).max()
    assert np.abs(found.astype(np.float32) - expected).max() < tolerance * scale
    with pytest.raises(InvalidInputError, match="no tiles"):
        half.infer({"tiles": tiles[:0]})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["histgen", "tile_encoder"])
def test_without_a_gpu_a_model_for_one_is_refused(name: str) -> None:
    with pytest.raises(FatalError) as caught:
        runner(name, Compute(device="cuda"))
    assert caught.value.code == "device-unavailable"
    assert "nvidia-smi" in caught.value.hint


def test_onnx_runtime_without_cuda_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(FatalError) as caught:
        OnnxSession(tiny_model() / TILE_ENCODER_ONNX, device="cuda")
    assert caught.value.code == "device-unavailable"
    assert "onnxruntime-gpu" in caught.value.hint


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_onnx_runtime_that_falls_back_to_the_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its CUDA libraries cannot be loaded here, or it has none: either way it would go on without them."""
    found = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: found)
    if (
        "CUDAExecutionProvider"
        in onnxruntime.InferenceSession(
            tiny_model() / TILE_ENCODER_ONNX, providers=["CPUExecutionProvider"]
        ).get_providers()
        or torch.cuda.is_available()
    ):
        pytest.skip("CUDA works here")
    with pytest.raises(FatalError) as caught:
        OnnxSession(tiny_model() / TILE_ENCODER_ONNX, device="cuda")
    assert caught.value.code == "device-unavailable"


def test_tensorrt_comes_first_where_engines_may_be_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    every = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: every)
    assert [name for name, _ in onnx_providers("cuda", tmp_path)] == every
    assert [name for name, _ in onnx_providers("cuda")] == every[1:]
    assert [name for name, _ in onnx_providers("cpu", tmp_path)] == every[2:]


def test_torchs_devices_go_by_their_names() -> None:
    assert torch_device("cpu") == CPU


def test_sizes_fall_into_few_classes_at_most_half_as_large_again() -> None:
    classes = {size_class(count) for count in range(1, 2000)}
    assert len(classes) == 15
    assert all(count <= size_class(count) <= max(16, count * 1.5) for count in range(1, 2000))


def test_without_cuda_captured_work_is_just_called() -> None:
    done: list[int] = []
    work = captured(lambda: done.append(1), CPU)
    work()
    work()
    assert done == [1, 1]


class Counting:
    """A session that remembers the batches it gets, and whose features are each tile's first pixel."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.sizes.append(len(inputs["tiles"]))
        return {"features": inputs["tiles"][:, 0, 0].astype(np.float32)}


def test_batches_for_a_gpu_are_filled_up_to_few_sizes() -> None:
    session = Counting()
    tiles = (np.arange(300) % 251).astype(np.uint8)[:, None, None, None].repeat(3, axis=3)
    found = PaddedRunner(session).infer({"tiles": tiles})["features"]
    assert session.sizes == [256, 64]
    assert np.array_equal(found, tiles[:, 0, 0].astype(np.float16))
