"""What both modes promise about batches, padding, training and settings, and what the corrections change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_histgen import SIZES, small_model

from histgen_lib.errors import InvalidInputError
from histgen_lib.models.histgen import HistGen, HistGenConfig
from histgen_lib.models.histgen import encoder as encoder_module
from histgen_lib.models.histgen import network as network_module

COUNTS = (1, 4, 5, 17)


@pytest.fixture(params=["published", "corrected"])
def model(request: pytest.FixtureRequest) -> HistGen:
    return small_model(request.param)


def batch(counts: tuple[int, ...] = COUNTS) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(len(counts), max(counts) + 3, SIZES["input_dim"], generator=generator)
    mask = torch.arange(features.shape[1]) < torch.tensor(counts)[:, None]
    ids = torch.randint(1, SIZES["vocab_size"] + 1, (len(counts), 7), generator=generator)
    ids[:, 0] = 0
    return features, mask, ids


def test_a_slide_gives_the_same_output_in_a_batch_as_alone(model: HistGen) -> None:
    features, mask, ids = batch()
    together = model(features, mask, ids)
    assert together.shape == (4, 7, SIZES["vocab_size"] + 1)
    for row, count in enumerate(COUNTS):
        alone = model.log_probs(features[row, :count], ids[row])
        assert torch.allclose(together[row], alone, atol=1e-5)


def test_the_content_of_padding_changes_nothing(model: HistGen) -> None:
    features, mask, ids = batch()
    dirty = torch.where(mask[..., None], features, torch.full_like(features, 1e3))
    assert torch.equal(model(features, mask, ids), model(dirty, mask, ids))


def test_probabilities_of_each_place_sum_to_one(model: HistGen) -> None:
    assert torch.allclose(model(*batch()).exp().sum(-1), torch.ones(4, 7), atol=1e-5)


def test_later_words_do_not_change_earlier_predictions(model: HistGen) -> None:
    features, mask, ids = batch()
    changed = ids.clone()
    changed[:, 5:] = 1
    assert torch.allclose(model(features, mask, ids)[:, :5], model(features, mask, changed)[:, :5], atol=1e-6)


def test_tile_shares_sum_to_one_in_real_regions_and_miss_padding(model: HistGen) -> None:
    features, mask, _ = batch()
    memory = model.region_memory(features, mask)
    sums = memory.tile_weights.sum(-1)
    assert torch.allclose(sums, memory.valid.float(), atol=1e-6)
    assert memory.valid.sum(1).tolist() == [1, 1, 2, 5]


@pytest.mark.parametrize("pooling", ["bounded", "free"])
@pytest.mark.parametrize("mode", ["published", "corrected"])
def test_every_weight_is_trained(mode: str, pooling: str) -> None:
    network = small_model(mode, pooling=pooling).train()
    (-network(*batch()).mean()).backward()
    idle = [
        name
        for name, weight in network.named_parameters()
        if weight.grad is None or not weight.grad.isfinite().all() or not weight.grad.any()
    ]
    # A bias added to all keys, or to all scores, cancels in the softmax.
    assert [name for name in idle if not name.endswith("key.bias")] == []


def test_training_in_bfloat16_stays_finite(model: HistGen) -> None:
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = -model(*batch()).mean()
    loss.backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())


def test_a_corrected_model_ignores_padding_that_a_published_one_pools() -> None:
    """Five tiles leave three empty places in the second region of four."""
    features = torch.randn(5, SIZES["input_dim"], generator=torch.Generator().manual_seed(2))

    def pooled_weight_of_padding(mode: str) -> float:
        network = small_model(mode)
        seen: list[torch.Tensor] = []
        network.encoder.pooling.register_forward_hook(lambda _m, _i, out: seen.append(out[1]))
        network.encode(features)
        return float(seen[0][0, 1, 1:4].sum())

    assert pooled_weight_of_padding("corrected") == 0.0
    assert pooled_weight_of_padding("published") > 0.1


def test_the_slide_step_uses_the_region_token_only_in_corrected_mode() -> None:
    """A change in the last region moves the first region's token, or (published) its first tile."""
    tiles = torch.randn(1, 3, 4, SIZES["d_model"], generator=torch.Generator().manual_seed(3))
    other = tiles.clone()
    other[0, 2, 0] += torch.arange(SIZES["d_model"])
    mask = torch.ones(1, 3, 4, dtype=torch.bool)

    def moved(mode: str) -> tuple[bool, bool]:
        network = small_model(mode)
        states: list[torch.Tensor] = []
        network.encoder.region_blocks[1].register_forward_hook(lambda _m, args, _o: states.append(args[0]))
        for variant in (tiles, other):
            network.encoder(variant, mask)
        change = (states[0] - states[1])[0].abs().amax(dim=-1)
        assert not change[1:-1].any()
        return bool(change[0] > 1e-3), bool(change[-1] > 1e-3)

    assert moved("corrected") == (False, True)
    assert moved("published") == (True, False)


def test_encode_and_log_probs_leave_training_mode_as_it_was(model: HistGen) -> None:
    features, _, ids = batch()
    model.train()
    first, second = model.encode(features[0]), model.encode(features[0])
    model.log_probs(features[0], ids[0])
    assert torch.equal(first, second)  # no dropout
    assert model.training


@pytest.mark.parametrize("shape", [(5, 11), (2, 5, 12), (5,)])
def test_features_of_another_width_are_refused(model: HistGen, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        model.encode(np.zeros(shape, dtype=np.float32))
    assert caught.value.code == "bag-shape"


def test_a_slide_without_tiles_is_refused(model: HistGen) -> None:
    with pytest.raises(InvalidInputError) as caught:
        model.encode(np.zeros((0, SIZES["input_dim"]), dtype=np.float32))
    assert caught.value.code == "bag-empty"


@pytest.mark.parametrize("features", ["text", None, [[1.0], [1.0, 2.0]], object()])
def test_features_that_are_not_numbers_are_refused(features: object, model: HistGen) -> None:
    with pytest.raises(InvalidInputError) as caught:
        model.encode(features)
    assert caught.value.code == "bag-shape"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_features_that_are_not_finite_are_refused_by_every_call(value: float, model: HistGen) -> None:
    features = np.zeros((5, SIZES["input_dim"]))
    features[3, 2] = value
    for call in (model.encode, model.generate, lambda x: model.log_probs(x, [0, 1])):
        for variant in (features, torch.from_numpy(features)):
            with pytest.raises(InvalidInputError) as caught:
                call(variant)
            assert caught.value.code == "bag-not-finite"


@pytest.mark.filterwarnings("error")
def test_features_are_accepted_in_any_form(model: HistGen) -> None:
    features = np.random.default_rng(0).normal(size=(7, SIZES["input_dim"])).astype(np.float16)
    expected = model.encode(features)
    frozen = features.astype(np.float32)
    frozen.setflags(write=False)
    forms = [
        features[::-1][::-1],
        np.ascontiguousarray(features[::-1])[::-1],  # negative strides
        np.asfortranarray(features),
        frozen,
        features[None].astype(np.float64),
        features.tolist(),
        memoryview(frozen),
        torch.from_numpy(features),
        torch.nn.Parameter(torch.from_numpy(features.astype(np.float32))),
    ]
    for form in forms:
        assert torch.equal(model.encode(form), expected)


@pytest.mark.filterwarnings("error")
def test_ids_are_accepted_in_any_form(model: HistGen) -> None:
    features, ids = np.ones((3, SIZES["input_dim"]), dtype=np.float32), np.array([0, 5, 23, 0])
    frozen = ids.copy()
    frozen.setflags(write=False)
    expected = model.log_probs(features, ids)
    forms = (ids[None], ids.tolist(), torch.from_numpy(ids), ids[::-1].copy()[::-1], frozen, ids * 1.0)
    for form in forms:
        assert torch.equal(model.log_probs(features, form), expected)


@pytest.mark.parametrize("ids", [[0, 24], [0, -1], [0, 1.5], [], [[0, 1], [0, 2]], 0, "text", [[1], [1, 2]]])
def test_ids_outside_the_models_vocabulary_are_refused(ids: object, model: HistGen) -> None:
    with pytest.raises(InvalidInputError) as caught:
        model.log_probs(np.zeros((2, SIZES["input_dim"])), ids)
    assert caught.value.code == "ids-invalid"


def test_encode_and_log_probs_give_ordinary_tensors(model: HistGen) -> None:
    """Callers may change them in place and take gradients through what they compute on."""
    features = np.zeros((3, SIZES["input_dim"]))
    for found in (model.encode(features), model.log_probs(features, [0, 1])):
        assert not found.is_inference()
        assert not found.requires_grad
        scale = torch.ones(1, requires_grad=True)
        found.mul_(scale).sum().backward()
        assert scale.grad is not None


def test_a_config_survives_json() -> None:
    config = HistGenConfig(mode="published", region_size=256)
    assert HistGenConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "improved"},
        {"pooling": "max"},
        {"region_size": 1},
        {"d_model": 15, "cmm_dim": 15},
        {"num_heads": 3},
        {"cmm_dim": 8},
        {"topk": 11},
        {"vocab_size": 0},
        {"dropout": 1.0},
        {"colour": "blue"},
    ],
)
def test_sizes_that_cannot_be_built_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        HistGenConfig.from_json({**SIZES, **changes})
    assert caught.value.code == "model-config"


@pytest.mark.parametrize("mode", ["published", "corrected"])
def test_evaluation_in_parts_gives_what_the_whole_gives(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With gradients everything is computed at once and unfolded, as in training."""
    monkeypatch.setattr(network_module, "_TILES_AT_ONCE", 8)
    monkeypatch.setattr(encoder_module, "_REGIONS_AT_ONCE", 8)
    network = small_model(mode)
    features, mask, _ = batch()
    whole = network.region_memory(features, mask)
    with torch.no_grad():
        in_parts = network.region_memory(features, mask)
    assert torch.equal(in_parts.valid, whole.valid)
    for one, other in ((in_parts.regions, whole.regions), (in_parts.tile_weights, whole.tile_weights)):
        shown = whole.valid[:, : one.shape[1], None]
        assert torch.allclose(one * shown, other * shown, atol=1e-5)
