"""The corrected FGCR: padding is nothing, regions start apart, and each loss trains what it is for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_retrieval import KINDS, SPAN_PX, planted_bag, planted_batch, report_of, tiny_config
from torch.nn import functional

from histgen_lib.errors import InvalidInputError
from histgen_lib.models.fgcr import FgcrConfig, find_regions
from histgen_lib.models.fgcr.batches import hidden_words, slides_of, texts_of
from histgen_lib.models.fgcr.losses import LossWeights, corrected_losses, report_alignment, support
from histgen_lib.models.fgcr.network import Fgcr, Texts
from histgen_lib.models.fgcr.published_losses import published_losses
from histgen_lib.models.fgcr.words import Words

WORDS = Words.train([report_of(kind) for kind in range(len(KINDS))], limit=64)


def network(mode: str = "corrected", **changes: object) -> Fgcr:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # at this size threads only wait for each other
    return Fgcr(tiny_config(16, WORDS.vocab_size, mode=mode, **changes)).eval()


def bag_of(config: FgcrConfig, kind: int, side: int) -> tuple[np.ndarray, object]:
    features, xy, _ = planted_bag(kind, 5, side=side)
    return features, find_regions(xy, SPAN_PX, config)


@pytest.mark.parametrize("mode", ["corrected", "published"])
def test_vectors_have_unit_length_and_do_not_depend_on_padding(mode: str) -> None:
    model = network(mode)
    bags = [bag_of(model.config, kind, side) for kind, side in ((0, 3), (1, 9), (2, 12))]
    reports = [WORDS.encode(report_of(0)), WORDS.encode("Grade"), WORDS.encode(report_of(2) * 3)]
    with torch.no_grad():
        together = model(slides_of(bags), texts_of(reports))
        for row, (bag, report) in enumerate(zip(bags, reports, strict=True)):
            alone = model(slides_of([bag]), texts_of([report]))
            count = alone.regions.shape[1]
            assert torch.allclose(together.slides[row], alone.slides[0], atol=1e-5)
            assert torch.allclose(together.texts[row], alone.texts[0], atol=1e-5)
            assert torch.allclose(together.regions[row, :count], alone.regions[0], atol=1e-5)
            assert not together.regions[row, count:].any()
            for vectors in alone:
                assert torch.allclose(vectors.norm(dim=-1), torch.ones(vectors.shape[:-1]), atol=1e-5)


def test_regions_differ_from_the_first_layer_on_but_for_the_published_ones() -> None:
    """Published anchors differ by their soft masks alone, and those of one slide hardly do."""
    spread = {}
    for mode in ("corrected", "published"):
        model = network(mode)
        with torch.no_grad():
            first = model.see(slides_of([bag_of(model.config, 1, 9)])).layers[0][0]
        spread[mode] = float(first.std(dim=0).mean())
    assert spread["corrected"] > 3 * spread["published"]


def test_a_text_longer_than_the_network_reads_is_cut_by_its_words() -> None:
    model = network()
    tokens = WORDS.encode("grade " * 1000)
    assert len(tokens) == 64
    with torch.no_grad():
        assert model.read(texts_of([tokens])).vector.isfinite().all()


def test_alignment_trains_the_vectors_that_retrieval_compares() -> None:
    """The published alignment leaves the direction of what it compares to the prompts' scores."""
    model = network()
    batch = planted_batch(model, WORDS, np.array([0, 1, 2, 3]), 0)
    corrected_losses(model, batch)["wra"].backward()
    assert model.slide_projection.map.weight.grad.abs().max() > 0
    assert model.text_projection.map.weight.grad.abs().max() > 0
    assert model.log_scale.grad.abs() > 0
    assert model.prompt_scores.weight.grad is None
    published = network("published")
    published_losses(published, batch)["wra"].backward()
    assert published.prompt_scores.weight.grad.abs().max() > 0


def test_reports_that_count_as_equal_are_not_told_apart() -> None:
    """Which of two slides has which of two reports matters, unless the reports count as equal."""
    model = network()
    batch = planted_batch(model, WORDS, np.array([0, 1, 2]), 0)
    order = torch.tensor([1, 0, 2])
    exchanged = Texts(batch.texts.tokens[order], batch.texts.mask[order])

    def loss(texts: Texts, reports: list[int]) -> float:
        changed = batch._replace(texts=texts, reports=torch.tensor(reports))
        with torch.no_grad():
            return float(corrected_losses(model, changed)["wra"])

    assert loss(exchanged, [7, 7, 8]) == pytest.approx(loss(batch.texts, [7, 7, 8]), rel=1e-5)
    assert loss(exchanged, [7, 8, 9]) != pytest.approx(loss(batch.texts, [7, 8, 9]), rel=1e-3)


def test_hidden_words_are_hidden_from_everything() -> None:
    """Another word in a hidden place does not change what is guessed there; in published mode it does."""
    model, leaking = network(), network("published")
    batch = planted_batch(model, WORDS, np.array([0, 1]), 0)
    hidden = torch.zeros_like(batch.hidden)
    hidden[:, 2] = True
    tokens = batch.texts.tokens.clone()
    batch = batch._replace(hidden=hidden)
    scores: dict[str, list[torch.Tensor]] = {"corrected": [], "published": []}
    for word in (5, 9):
        tokens[:, 2] = word
        changed = batch._replace(texts=Texts(tokens.clone(), batch.texts.mask))
        for mode, one in (("corrected", model), ("published", leaking)):
            with torch.no_grad():
                seen: list[torch.Tensor] = []
                handle = one.word_guess.register_forward_hook(lambda _m, _i, out, to=seen: to.append(out))
                (corrected_losses if mode == "corrected" else published_losses)(one, changed)
                handle.remove()
                scores[mode].append(seen[0])
    assert torch.equal(*scores["corrected"])
    assert not torch.allclose(scores["published"][0][2], scores["published"][1][2])


def test_a_batch_without_hidden_words_has_no_loss_for_them() -> None:
    model = network()
    batch = planted_batch(model, WORDS, np.array([0, 1]), 0)
    losses = corrected_losses(model, batch._replace(hidden=torch.zeros_like(batch.hidden)))
    assert float(losses["mlm"]) == 0
    assert losses["total"].isfinite()


def test_the_total_is_the_weighted_sum() -> None:
    model = network()
    batch = planted_batch(model, WORDS, np.array([0, 1, 2]), 0)
    with torch.no_grad():
        losses = corrected_losses(model, batch, replace(LossWeights(), apa=0.0, wra=2.0))
    shares = {
        "wra": 2.0,
        "kin": 0.5,
        "apa": 0.0,
        "cta": 0.05,
        "pc_image": 1,
        "pc_text": 1,
        "mlm": 0.1,
        "sentences": 0.5,
    }
    assert set(losses) == {*shares, "total"}
    expected = sum(share * float(losses[name]) for name, share in shares.items())
    assert float(losses["total"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("number_format", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mode", ["corrected", "published"])
def test_losses_hold_in_mixed_precision(
    mode: str, number_format: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Float16 ends at 65504; and on a GPU, autocast refuses the cross-entropy of chances."""
    compute = functional.binary_cross_entropy

    def as_on_a_gpu(*given: torch.Tensor) -> torch.Tensor:
        assert not torch.is_autocast_enabled("cpu")
        return compute(*given)

    monkeypatch.setattr(functional, "binary_cross_entropy", as_on_a_gpu)
    model = network(mode)
    batch = planted_batch(model, WORDS, np.array([0, 1, 2, 3, 0]), 3)
    losses = corrected_losses if mode == "corrected" else published_losses
    with torch.no_grad():
        expected = losses(model, batch)
        with torch.autocast("cpu", number_format):
            found = losses(model, batch)
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(float(value), rel=0.02), name


def test_reports_of_one_kind_are_half_of_what_a_slide_looks_for() -> None:
    """Two slides of one kind with different reports: the best scores are equal, yet their own counts more."""
    reports, one_kind, two_kinds = torch.tensor([0, 1]), torch.tensor([5, 5]), torch.tensor([5, 6])
    alone, alike = torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.full((2, 2), 9.0)
    assert report_alignment(alone, reports, two_kinds) < report_alignment(alike, reports, two_kinds)
    assert report_alignment(alone, reports, one_kind) > report_alignment(alike, reports, one_kind)


def test_without_kinds_only_equal_reports_are_alike() -> None:
    model = network()
    batch = planted_batch(model, WORDS, np.array([0, 1, 1]), 0)
    with torch.no_grad():
        bare, told = (corrected_losses(model, batch._replace(kinds=kinds)) for kinds in (None, batch.reports))
        other = corrected_losses(model, batch._replace(kinds=torch.zeros_like(batch.reports)))
    assert float(bare["kin"]) == pytest.approx(float(told["kin"]))
    assert float(bare["kin"]) != pytest.approx(float(other["kin"]))


def test_support_is_a_soft_maximum_over_real_regions() -> None:
    regions = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])
    texts = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    real = torch.tensor([[True, True, False]])
    found = support(regions, real, texts, torch.tensor(50.0))
    assert found[0].tolist() == pytest.approx([50 - np.log(2), 0 - np.log(2)], abs=1e-3)


def test_training_tells_slides_regions_and_texts_apart() -> None:
    """Forty steps, four kinds of slides: reports are found, and the region nearest to the phrase has it."""
    torch.manual_seed(0)
    model = network(text_layers=1)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    rng = np.random.default_rng(0)
    for step in range(40):
        batch = planted_batch(model, WORDS, rng.integers(0, len(KINDS), 12), 100 * step)
        optimiser.zero_grad()
        corrected_losses(model, batch)["total"].backward()
        optimiser.step()
    kinds = np.arange(16) % len(KINDS)
    batch = planted_batch(model, WORDS, kinds, 99_000)
    with torch.no_grad():
        slides, regions, texts = model(batch.slides, batch.texts)
        best = (slides @ texts[: len(KINDS)].T).argmax(dim=1)
        assert (best.numpy() == kinds).mean() >= 0.9
        phrases = model.read(batch.prompts).vector
    found = 0
    for row, kind in enumerate(kinds):
        _, xy, (x, y, width, height) = planted_bag(int(kind), 99_000 + row)
        boxes = find_regions(xy, SPAN_PX, model.config).boxes
        left, top, wide, high = boxes[int((regions[row] @ phrases[kind]).argmax())]
        found += left < x + width and x < left + wide and top < y + height and y < top + high
    assert found >= 14


def test_hidden_words_are_real_words_and_follow_their_generator() -> None:
    texts = texts_of([[3] * 400, [4] * 10])
    first, second = (hidden_words(texts, 0.15, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not first[1, 10:].any()
    assert 30 < int(first[0].sum()) < 90


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "improved"},
        {"dim": 0},
        {"dim": 12.5},
        {"text_heads": 3},
        {"heads": 3},
        {"dropout": 1.0},
        {"temperature": 0},
        {"anchors_a_scale": []},
        {"anchors_a_scale": [20, 6]},
        {"surprise": 1},
    ],
)
def test_sizes_that_cannot_be_built_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        tiny_config(16, 30, **changes)
    assert caught.value.code == "model-config"


def test_sizes_survive_json() -> None:
    config = tiny_config(16, 30, anchors_a_scale=[4, 1])
    assert FgcrConfig.from_json(config.to_json()) == config
