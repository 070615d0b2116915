"""The graphs for a device compute what the network computes, in every number type, by torch and as ONNX."""

from __future__ import annotations

import io
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from small_histgen import SIZES, small_model
from torch import Tensor, nn

from histgen_lib.models.histgen import HistGen
from histgen_lib.models.histgen.layout import arrange
from histgen_lib.models.histgen.on_device import BeamStep, DeviceEncoder, Words, WordTable

KINDS = [("published", "bounded"), ("corrected", "bounded"), ("corrected", "free")]
HALVES = {torch.float16: 0.01, torch.bfloat16: 0.06}
"""Types, and how far values of the order of 1 may be from float32's after the whole network."""
BEAMS, PLACES = 3, 6
AXES = {
    "features": {0: "N"}, "rows": {0: "R"}, "mask": {0: "R"}, "tokens": {0: "S"}, "parents": {0: "S"},
    "scores": {0: "S"}, "past": {2: "S"}, "cross": {2: "S", 4: "R"}, "valid": {0: "S", 1: "R"},
}  # fmt: skip
STEP_INPUTS = ("tokens", "parents", "scores", "place", "past", "cross", "valid")


def slide(tiles: int, runs: tuple[int, ...] = ()) -> tuple[Tensor, list[Tensor], np.ndarray]:
    """Features in mixed order, the places of their regions, and the order of the curve."""
    rng = np.random.default_rng(tiles)
    order = rng.permutation(tiles)
    places = arrange(order, SIZES["region_size"] - 1, SIZES["prototype_num"], runs)
    features = torch.from_numpy(rng.normal(size=(tiles, SIZES["input_dim"])).astype(np.float32))
    return features, [torch.from_numpy(np.array(one)) for one in places], order


def step_inputs(slides: int, regions: int, dtype: torch.dtype, place: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(slides)
    layers, heads = SIZES["num_layers"], SIZES["num_heads"]
    width = SIZES["d_model"] // heads
    shape = (slides, BEAMS)
    return [
        torch.randint(1, SIZES["vocab_size"], shape, generator=generator),
        torch.randint(0, BEAMS, shape, generator=generator),
        -torch.rand(shape, generator=generator),
        torch.tensor([place]),
        torch.randn(layers, 2, slides, BEAMS, heads, PLACES, width, generator=generator).to(dtype),
        torch.randn(layers, 2, slides, heads, regions, width, generator=generator).to(dtype),
        torch.arange(regions) < torch.tensor([[regions], [regions - 1]])[:slides],
    ]


def exported(network: nn.Module, inputs: list[Tensor], names: tuple[str, ...]) -> bytes:
    graph = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            tuple(inputs),
            graph,
            input_names=list(names),
            dynamic_axes={name: AXES[name] for name in names if name in AXES},
            opset_version=17,
            dynamo=False,
        )
    return graph.getvalue()


def run(graph: bytes, inputs: list[Tensor], names: tuple[str, ...]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run(None, {name: one.numpy() for name, one in zip(names, inputs, strict=True)})


@pytest.mark.parametrize(("mode", "pooling"), KINDS)
@pytest.mark.parametrize("tiles", [1, 4, 5, 33])
def test_the_encoder_gives_the_networks_tile_shares_and_cross_memory(
    mode: str, pooling: str, tiles: int
) -> None:
    model = small_model(mode, pooling=pooling)
    features, places, order = slide(tiles)
    shares, cross = DeviceEncoder(model)(features, *places)
    with torch.no_grad():
        memory = model.region_memory(features[order][None], torch.ones(1, tiles, dtype=torch.bool))
        expected = model.decoder.cross(memory.regions)
    assert torch.allclose(shares, memory.tile_weights[0], atol=1e-5)
    assert torch.allclose(cross, expected, atol=1e-5)


def test_spare_rows_and_regions_of_a_slide_change_nothing_in_the_others() -> None:
    encoder = DeviceEncoder(small_model("corrected"))
    features, (rows, mask, prototypes), _ = slide(13)
    shares, cross = encoder(features, rows, mask, prototypes)
    longer = torch.cat([features, torch.full((5, features.shape[1]), 9.0)])
    wider = [torch.cat([one, torch.zeros(3, one.shape[1], dtype=one.dtype)]) for one in (rows, mask)]
    padded, padded_cross = encoder(longer, *wider, prototypes)
    assert torch.allclose(padded[: len(rows)], shares, atol=1e-6)
    assert torch.allclose(padded_cross[..., : len(rows), :], cross, atol=1e-5)
    assert not padded[len(rows) :].any()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("mode", "pooling"), KINDS)
def test_the_encoder_runs_wholly_in_a_half_type(mode: str, pooling: str, dtype: torch.dtype) -> None:
    model = small_model(mode, pooling=pooling)
    features, places, _ = slide(33)
    expected = DeviceEncoder(model)(features, *places)
    shares, cross = DeviceEncoder(model).to(dtype)(features.half(), *places)
    assert (shares.dtype, cross.dtype) == (torch.float32, dtype)
    assert (shares - expected[0]).abs().max() < HALVES[dtype]
    assert (cross - expected[1]).abs().max() < HALVES[dtype]


def test_a_step_gives_the_networks_probabilities_attention_and_cache() -> None:
    model = small_model("corrected")
    inputs = step_inputs(2, 5, torch.float32)
    tokens, parents, scores, place, past, cross, valid = inputs
    found = BeamStep(model, BEAMS, PLACES)(*inputs)
    followed = past[:, :, torch.arange(2)[:, None], parents]
    with torch.no_grad():
        out = model.step(tokens, followed[..., : int(place), :], cross, valid, model.memory_slots())
    assert torch.allclose(found[6], out.words, atol=1e-5)
    assert torch.allclose(found[4], out.attention, atol=1e-6)
    assert torch.allclose(found[5][..., : int(place) + 1, :], out.cache, atol=1e-5)
    best = (scores[:, :, None] + out.words).flatten(1).topk(BEAMS)
    assert torch.equal(found[0], best.indices % (SIZES["vocab_size"] + 1))
    assert torch.equal(found[1], best.indices // (SIZES["vocab_size"] + 1))
    assert torch.allclose(found[2], best.values, atol=1e-5)


def test_a_step_lowers_the_scores_of_beams_that_end() -> None:
    model = small_model("corrected")
    inputs = step_inputs(1, 3, torch.float32)
    at_limit = [*inputs[:3], torch.tensor([PLACES - 1]), *inputs[4:]]
    step = BeamStep(model, BEAMS, PLACES)
    assert step(*at_limit)[2].max() < -900
    assert step(*inputs)[2].max() > -900
    with torch.no_grad():
        model.logit.bias[0] = 50.0
    assert BeamStep(model, BEAMS, PLACES)(*inputs)[2].max() < -900


@pytest.mark.parametrize("dtype", HALVES)
def test_a_step_runs_wholly_in_a_half_type(dtype: torch.dtype) -> None:
    model = small_model("corrected")
    expected = BeamStep(model, BEAMS, PLACES)(*step_inputs(2, 5, torch.float32))
    found = BeamStep(model, BEAMS, PLACES).to(dtype)(*step_inputs(2, 5, dtype))
    assert [one.dtype for one in found[2:5]] == [torch.float32] * 3
    assert found[5].dtype == dtype
    assert (found[6] - expected[6]).abs().max() < 2 * HALVES[dtype]


def test_words_are_looked_up_as_they_are_computed() -> None:
    words = Words(small_model("corrected"), PLACES)
    table = WordTable(words)
    tokens = torch.arange(SIZES["vocab_size"] + 1)
    for place in range(PLACES):
        assert torch.allclose(
            table(tokens, torch.tensor([place])), words(tokens, torch.tensor([place])), atol=1e-6
        )


def networks(dtype: torch.dtype) -> list[tuple[nn.Module, list[Tensor], tuple[str, ...]]]:
    model: HistGen = small_model("corrected")
    features, places, _ = slide(9)
    return [
        (
            DeviceEncoder(model).to(dtype).eval(),
            [features, *places],
            ("features", "rows", "mask", "prototypes"),
        ),
        (BeamStep(model, BEAMS, PLACES).to(dtype).eval(), step_inputs(2, 5, dtype), STEP_INPUTS),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_graphs_agree_with_torch(dtype: torch.dtype) -> None:
    for network, inputs, names in networks(dtype):
        found = run(exported(network, inputs, names), inputs, names)
        expected = network(*inputs)
        for one, other in zip(found, expected, strict=True):
            # In float16 a slot near the threshold may be in here and out there.
            assert np.abs(one - other.float().numpy()).max() < (1e-4 if dtype == torch.float32 else 0.1)


@pytest.mark.parametrize("dtype", HALVES)
def test_half_types_are_explicit_in_the_graph(dtype: torch.dtype) -> None:
    """All weights have the type; of float32 there are only single numbers and codes of positions."""
    kind = TensorProto.FLOAT16 if dtype == torch.float16 else TensorProto.BFLOAT16
    for network, inputs, names in networks(dtype):
        model = onnx.load_from_string(exported(network, inputs, names))
        onnx.checker.check_model(model, full_check=True)
        assert {one.data_type for one in model.graph.initializer if len(one.dims) >= 1} <= {
            kind,
            TensorProto.INT64,
        }
        constants = [a.t for node in model.graph.node if node.op_type == "Constant" for a in node.attribute]
        assert all(
            numpy_helper.to_array(one).size <= SIZES["d_model"] // 2
            for one in constants
            if one.data_type == TensorProto.FLOAT
        )
