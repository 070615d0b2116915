"""`histgen compare`: all variants on the same slides, with existing or newly trained models."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import planted_bags
import pytest
from planted_bags import PlantedWorld

from histgen_lib.bags import read_bag, write_bag
from histgen_lib.cli.offline import compare as command
from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.export import to_onnx
from histgen_lib.files import sha256_file
from histgen_lib.inference import OnnxServer
from histgen_lib.models.folder import open_model_folder
from histgen_lib.models.histgen.checkpoint import load_model as load_network
from histgen_lib.pipeline import Drafter, load_model
from histgen_lib.training import ComparisonSettings, DraftedSlide, Figure, compare, read_annotation
from histgen_lib.training.report.comparison import VARIANTS, draft_bags, variant_settings
from histgen_lib.training.report.settings import Variant
from histgen_lib.training.report.train import TrainResult


def _settings(world: PlantedWorld, out: Path, trained: Mapping[Variant, Path]) -> ComparisonSettings:
    return ComparisonSettings(world.settings(out, epochs=1), world.annotation, world.bags, trained=trained)


@pytest.fixture(scope="module")
def compared(small_world: PlantedWorld, trained: TrainResult, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """Rows, what was scored, and the folder in which the missing models were trained."""
    out = tmp_path_factory.mktemp("compared")
    seen: list[Sequence[DraftedSlide]] = []

    def score(drafted: Sequence[DraftedSlide]) -> dict[str, Figure]:
        seen.append(drafted)
        right = [slide.draft["text"] == slide.case.report for slide in drafted]
        return {"Right": Figure(sum(right) / len(right), count=len(right))}

    settings = _settings(small_world, out, {"corrected": trained.folder})
    return compare(settings, score, quiet=True), seen, out


def test_every_variant_is_scored_on_the_same_slides_of_the_split(compared, small_world: PlantedWorld) -> None:  # type: ignore[no-untyped-def]
    rows, seen, _ = compared
    ids = [case.id for case in read_annotation(small_world.annotation).test]
    assert tuple(row.variant for row in rows) == VARIANTS
    assert [[slide.case.id for slide in drafted] for drafted in seen] == [ids] * 3
    assert [row.slides for row in rows] == [len(ids)] * 3


def test_an_existing_model_is_scored_and_not_trained(compared, trained: TrainResult) -> None:  # type: ignore[no-untyped-def]
    rows, _, out = compared
    assert sorted(path.name for path in out.iterdir()) == ["mean-pooled", "published"]
    existing = rows[VARIANTS.index("corrected")]
    assert existing.pretrained
    assert existing.epochs == planted_bags.EPOCHS
    assert existing.figures["Right"].value >= 0.75
    assert rows[0].epochs == 1
    assert existing.parameters == rows[0].parameters > 1000


def test_drafts_have_evidence_except_mean_pooled_ones(compared) -> None:  # type: ignore[no-untyped-def]
    _, seen, _ = compared
    corrected, pooled = seen[VARIANTS.index("corrected")], seen[VARIANTS.index("mean-pooled")]
    places = {tuple(place) for place in corrected[0].bags[0].xy.tolist()}
    evidence = [tile for slide in corrected for s in slide.draft["sentences"] for tile in s["evidence"]]
    assert evidence
    assert {(t["x"], t["y"]) for t in corrected[0].draft["sentences"][0]["evidence"]} <= places
    assert not any(s["evidence"] for slide in pooled for s in slide.draft["sentences"])


def test_a_model_of_another_variant_is_refused_before_anything_is_trained(
    small_world: PlantedWorld, trained: TrainResult, tmp_path: Path
) -> None:
    variants: tuple[Variant, Variant] = ("published", "mean-pooled")
    for variant in variants:
        with pytest.raises(InvalidInputError) as raised:
            compare(_settings(small_world, tmp_path / "o", {variant: trained.folder}), lambda _: {})
        assert raised.value.code == "training-comparison-variant"
    with pytest.raises(FatalError) as missing:
        compare(_settings(small_world, tmp_path / "o", {"corrected": tmp_path}), lambda _: {})
    assert missing.value.code == "model-missing"
    assert not (tmp_path / "o").exists()


def test_bags_of_another_encoder_are_refused(small_world: PlantedWorld, tmp_path: Path) -> None:
    for case in read_annotation(small_world.annotation).test:
        bag = read_bag(small_world.bags / f"{case.id}.parquet")
        write_bag(dataclasses.replace(bag, encoder_sha256="e" * 64), tmp_path / f"{case.id}.parquet")
    settings = dataclasses.replace(_settings(small_world, tmp_path, {}), bags=tmp_path)
    with pytest.raises(InvalidInputError) as raised:
        compare(settings, lambda _: {}, quiet=True)
    assert raised.value.code == "training-bags-differ"


def test_cases_trained_on_from_another_file_are_not_scored(small_world: PlantedWorld, tmp_path: Path) -> None:
    splits = json.loads(small_world.annotation.read_text())
    moved = splits | {"test": splits["train"][:2], "train": splits["train"][2:]}
    (tmp_path / "scored.json").write_text(json.dumps(moved))
    settings = dataclasses.replace(_settings(small_world, tmp_path, {}), annotation=tmp_path / "scored.json")
    with pytest.raises(InvalidInputError) as raised:
        compare(settings, lambda _: {}, quiet=True)
    assert raised.value.code == "training-slide-in-two-splits"


def test_a_case_of_two_slides_is_drafted_as_a_whole(small_world: PlantedWorld, trained: TrainResult) -> None:
    bags = [read_bag(small_world.bags / f"test-00{row}.parquet") for row in (0, 1)]
    model = load_network(trained.folder)
    draft = draft_bags(model, open_model_folder(trained.folder), "corrected", "both", bags)
    evidence = [tile for sentence in draft["sentences"] for tile in sentence["evidence"]]
    assert draft["slide_id"] == "both"
    assert {tile["slide_id"] for tile in evidence} <= {"test-000", "test-001"}
    places = {(bag.slide_id, *place) for bag in bags for place in bag.xy.tolist()}
    assert {(tile["slide_id"], tile["x"], tile["y"]) for tile in evidence} <= places


def test_all_variants_get_the_same_budget_and_published_keeps_its_pooling(
    small_world: PlantedWorld, tmp_path: Path
) -> None:
    base = small_world.settings(tmp_path)
    for variant in VARIANTS:
        own = variant_settings(base, variant)
        assert own.sizes.pooling == ("bounded" if variant == "published" else base.sizes.pooling)
        same = {"out": base.out, "variant": base.variant, "sizes": base.sizes, "name": base.name}
        assert dataclasses.replace(own, **same) == base  # type: ignore[arg-type]


def test_one_command_writes_the_page(
    small_world: PlantedWorld, trained: TrainResult, compared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    """Existing models, truth for one slide: no training, every row of the table, no absolute path."""
    out = compared[2]
    truth = tmp_path / "truth"
    truth.mkdir()
    case = read_annotation(small_world.annotation).test[0]
    square = [[0, 0], [2048, 0], [2048, 2048], [0, 2048]]
    lesions = [{"field": "diagnosis", "polygon": square}]
    (truth / f"{case.id}.json").write_text(json.dumps({"lesions": lesions}))
    models = {v: out / v for v in ("published", "mean-pooled")} | {"corrected": trained.folder}
    before = {v: sha256_file(folder / "histgen.safetensors") for v, folder in models.items()}
    monkeypatch.setattr(sys, "argv", ["histgen", "compare", "--annotation", str(small_world.annotation)])
    command.compare(
        annotation=small_world.annotation,
        bags=small_world.bags,
        out_dir=tmp_path / "none",
        table=tmp_path / "comparison.md",
        model=[f"{variant}={folder}" for variant, folder in models.items()],
        truth=truth,
        bootstrap=50,
        threads=1,
    )
    page = (tmp_path / "comparison.md").read_text()
    assert "histgen compare --annotation annotation.json" in page
    for row in ("Exact diagnosis line (n = 4)", "Necrosis (n = 4)", "BLEU-4", "ROUGE-L", "Parameters"):
        assert f"| {row} |" in page
    assert "| Evidence: strongest tile on the lesion" in page
    assert str(tmp_path) not in page
    assert {v: sha256_file(folder / "histgen.safetensors") for v, folder in models.items()} == before
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("argument", ["corrected", "corrected=", "best=folder", "=folder"])
def test_a_model_argument_without_a_variant_is_refused(argument: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        command.existing_models([argument])
    assert raised.value.code == "compare-model-argument"


def test_the_printed_command_has_no_absolute_paths() -> None:
    line = command.command_line(
        ["compare", "--bags", "/home/me/bags", "--model=/x/y", "-m", "published=/a/b", "c/d"]
    )
    assert line == "histgen compare --bags bags --model=y -m published=b c/d"


def test_drafts_of_a_comparison_are_those_of_the_exported_model(
    world: PlantedWorld, trained: TrainResult, tmp_path: Path
) -> None:
    """The table describes what `histgen report` does with a model: words, confidence, evidence."""
    folder = tmp_path / "model"
    shutil.copytree(trained.folder, folder)
    to_onnx(folder)
    model, server = load_model(folder), OnnxServer(folder, threads=1)
    network = load_network(folder)
    for case in read_annotation(world.annotation).test[:4]:
        bag = read_bag(world.bags / f"{case.id}.parquet")
        ours = draft_bags(network, model.folder, "corrected", bag.slide_id, [bag])
        theirs = Drafter(model, server).draft(bag).draft.model_dump(mode="json")
        assert ours["text"] == theirs["text"]
        for mine, other in zip(ours["sentences"], theirs["sentences"], strict=True):
            assert mine["confidence"] == pytest.approx(other["confidence"], abs=1e-3)
            assert [(t["x"], t["y"]) for t in mine["evidence"]] == [
                (t["x"], t["y"]) for t in other["evidence"]
            ]
