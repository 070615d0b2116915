"""`train` from a folder of bags and an annotation file to a model folder."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import planted_bags
import pytest
import torch
from planted_bags import PlantedWorld

from histgen_lib.bags import read_bag
from histgen_lib.errors import InvalidInputError
from histgen_lib.models.domain import DomainModel
from histgen_lib.models.folder import open_model_folder
from histgen_lib.models.histgen import HistGen
from histgen_lib.models.histgen.checkpoint import load_model
from histgen_lib.pipeline import load_model as load_report_model
from histgen_lib.training import preset, read_annotation, train
from histgen_lib.training.data import make_examples
from histgen_lib.training.distributed import joined
from histgen_lib.training.matching import Found
from histgen_lib.training.report.comparison import draft_bags
from histgen_lib.training.report.loop import Loop
from histgen_lib.training.report.train import TrainResult, make_tokenizer, model_config


def test_a_finding_in_one_tile_is_learned(world: PlantedWorld, trained: TrainResult) -> None:
    """On unseen slides nearly all organs and findings are right, where guessing gives half."""
    opened, model = open_model_folder(trained.folder), load_model(trained.folder)
    cases = read_annotation(world.annotation).test
    bags = {case.id: [read_bag(world.bags / f"{case.id}.parquet")] for case in cases}
    drafts = [draft_bags(model, opened, "corrected", *pair) for pair in bags.items()]
    right = sum(draft["text"] == case.report for draft, case in zip(drafts, cases, strict=True))
    assert right >= len(cases) - 2
    assert trained.best["val_fields"] > 0.9


def test_the_model_folder_has_calibration_and_abstention(trained: TrainResult) -> None:
    model = load_report_model(trained.folder)
    assert model.calibration.method in {"temperature", "isotonic"}
    assert 0.5 <= model.abstention_threshold <= 1
    assert isinstance(model.domain, DomainModel)
    assert model.domain_threshold > 0
    report = json.loads((trained.folder / "training" / "calibration.json").read_text())
    assert report["expected_calibration_error"] <= report["expected_calibration_error_raw"] + 0.05
    assert report["sentences"] == 3 * 16


def test_validation_slides_are_in_distribution_and_others_are_not(
    world: PlantedWorld, trained: TrainResult
) -> None:
    model = load_report_model(trained.folder)
    bag = read_bag(world.bags / "val-000.parquet")
    assert model.domain is not None
    assert model.domain.score(bag.features) < model.domain_threshold
    assert model.domain.score(bag.features * 0 - 5) > model.domain_threshold


def test_the_config_records_how_the_weights_were_trained(trained: TrainResult) -> None:
    config = open_model_folder(trained.folder)
    budget = {"epochs": planted_bags.EPOCHS, "batch_size": 8, "slides": 64}
    assert config.section("training") == {"variant": "corrected", "seed": 7, **budget}
    assert dict(config.tiling) == {"tile_px": 256, "mpp": 0.5, "overlap_px": 0, "min_tissue": 0.15}
    assert config.encoder["name"] == "planted"


def test_metrics_are_written_as_csv_and_for_tensorboard(trained: TrainResult) -> None:
    folder = trained.folder / "training"
    with (folder / "metrics.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [float(row["epoch"]) for row in rows] == list(range(1, planted_bags.EPOCHS + 1))
    assert {"train_loss", "val_loss", "val_fields", "val_diagnosis", "learning_rate", "seconds"} <= set(
        rows[0]
    )
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"]) / 5
    assert any("tfevents" in path.name for path in (folder / "tensorboard").iterdir())


def test_the_weights_in_the_folder_are_those_of_the_best_epoch(trained: TrainResult) -> None:
    key = max(trained.rows, key=lambda row: (row["val_fields"], -row["val_loss"]))
    assert trained.best["val_fields"] == key["val_fields"]
    assert trained.best["val_loss"] == key["val_loss"]


def test_rerunning_a_finished_run_gives_the_same_model(
    trained: TrainResult, world: PlantedWorld, tmp_path: Path
) -> None:
    digest = open_model_folder(trained.folder).digest
    again = train(world.settings(trained.folder, epochs=planted_bags.EPOCHS), quiet=True)
    assert open_model_folder(again.folder).digest == digest
    assert len(again.rows) == len(trained.rows)


def test_the_test_split_is_never_read(tmp_path: Path) -> None:
    world = planted_bags.make_planted_world(tmp_path, train=8, val=4, test=2)
    for path in world.bags.glob("test-*.parquet"):
        path.write_bytes(b"whoever reads this fails")
    assert train(world.settings(tmp_path / "m", epochs=1), quiet=True).rows


@pytest.mark.parametrize("variant", ["published", "mean-pooled"])
def test_the_other_variants_train_too(small_world: PlantedWorld, tmp_path: Path, variant: str) -> None:
    settings = small_world.settings(tmp_path / "m", epochs=2, variant=variant)
    result = train(settings, quiet=True)
    opened = open_model_folder(result.folder)
    assert opened.section("training")["variant"] == variant
    assert opened.histgen.mode == ("published" if variant == "published" else "corrected")
    assert result.rows[1]["train_loss"] < result.rows[0]["train_loss"]


def test_bfloat16_trains(small_world: PlantedWorld, tmp_path: Path) -> None:
    result = train(small_world.settings(tmp_path / "m", epochs=2, precision="bfloat16"), quiet=True)
    assert result.rows[1]["train_loss"] < result.rows[0]["train_loss"]


def test_bags_that_do_not_fit_in_memory_are_read_from_disk_with_the_same_result(
    small_world: PlantedWorld, tmp_path: Path
) -> None:
    held = train(small_world.settings(tmp_path / "a", epochs=1), quiet=True)
    read = train(small_world.settings(tmp_path / "b", epochs=1, memory_bytes=0), quiet=True)
    assert read.best == held.best


@pytest.mark.parametrize("variant", ["published", "corrected"])
def test_the_authors_files_can_be_used_unchanged(tmp_path: Path, variant: str) -> None:
    """annotation.json and .pt features as in HistGen's own code, with ids that differ from the file names."""
    rng = torch.Generator().manual_seed(0)
    splits: dict[str, list[dict[str, object]]] = {"train": [], "val": [], "test": []}
    report = "Skin , excision . Benign naevus ."
    (tmp_path / "pt_files").mkdir()
    for row in range(12):
        torch.save(torch.randn(5 + row, 16, generator=rng), tmp_path / "pt_files" / f"TCGA-{row}.pt")
        case = {
            "id": f"case {row}",
            "report": report,
            "image_path": [f"TCGA-{row}.pt"],
        }
        splits["train" if row < 9 else "val"].append(case)
    (tmp_path / "annotation.json").write_text(json.dumps(splits))
    settings = dataclasses.replace(
        preset(
            "published",
            annotation=tmp_path / "annotation.json",
            bags=tmp_path / "pt_files",
            out=tmp_path / "model",
        ),
        sizes=dataclasses.replace(planted_bags.SIZES, pooling="bounded"),
        word_threshold=3,
        epochs=1,
        threads=1,
        variant=variant,
    )
    result = train(settings, quiet=True)
    assert len(result.rows) == 1
    assert load_report_model(result.folder).folder.tokenizer.vocab_size > 4


def test_early_stopping_looks_at_validation_alone(small_world: PlantedWorld, tmp_path: Path) -> None:
    """Validation worsens after the second epoch while the training loss falls: stop two epochs later."""

    class Scripted:
        scores = iter([0.5, 0.4, 0.6, 0.7, 0.1])

        def keys(self, epoch: int) -> Sequence[str]:
            return ["val_loss"]

        def score(self, model: HistGen, epoch: int) -> dict[str, float]:
            return {"val_loss": next(self.scores)}

    settings = small_world.settings(tmp_path, epochs=20, patience_epochs=2, select_by="loss")
    loop = _loop(settings, Scripted())
    run = loop.fit()
    assert [row["val_loss"] for row in run.rows] == [0.5, 0.4, 0.6, 0.7]
    assert run.rows[-1]["train_loss"] < run.rows[1]["train_loss"]
    assert run.best == {"val_loss": 0.4}
    last = loop.model.state_dict()
    assert not all(torch.equal(run.best_weights[name], last[name]) for name in last)


def _loop(settings, validator) -> Loop:  # type: ignore[no-untyped-def]
    cases = read_annotation(settings.annotation).train
    tokenizer = make_tokenizer(settings, [case.report for case in cases])
    pairs = [Found(case, (settings.bags / f"{case.id}.parquet",)) for case in cases]
    examples = make_examples(pairs, tokenizer, settings.sizes.max_tokens, settings.memory_bytes)
    torch.manual_seed(0)
    model = HistGen(model_config(settings, planted_bags.DIM, tokenizer.vocab_size))
    with joined("cpu") as group:
        return Loop(settings, model, examples, validator, group, settings.out, quiet=True)


def test_bags_of_an_encoder_other_than_the_named_one_are_refused(
    small_world: PlantedWorld, trained: TrainResult, tmp_path: Path
) -> None:
    bags = tmp_path / "bags"
    bags.mkdir()
    for path in small_world.bags.iterdir():
        (bags / path.name).write_bytes(path.read_bytes())
    stray = dataclasses.replace(read_bag(bags / "val-000.parquet"), encoder_sha256="f" * 64)
    planted_bags.write_bag(stray, bags / "val-000.parquet")
    with pytest.raises(InvalidInputError) as raised:
        train(PlantedWorld(small_world.annotation, bags).settings(tmp_path / "m"), quiet=True)
    assert raised.value.code == "training-bags-differ"


def test_a_folder_without_bags_is_reported(small_world: PlantedWorld, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as raised:
        train(PlantedWorld(small_world.annotation, tmp_path).settings(tmp_path / "m"), quiet=True)
    assert raised.value.code == "training-bags-missing"


def test_reports_without_any_field_train_with_the_small_preset(tmp_path: Path) -> None:
    """Free text has no fields to probe or to choose weights by; then the loss decides."""
    rng = torch.Generator().manual_seed(0)
    (tmp_path / "bags").mkdir()
    texts = ("benign", "malign")
    cases = [{"id": str(row), "report": texts[row % 2], "image_path": []} for row in range(12)]
    for row in range(12):
        torch.save(torch.randn(6, 16, generator=rng), tmp_path / "bags" / f"{row}.pt")
    (tmp_path / "annotation.json").write_text(json.dumps({"train": cases[:8], "val": cases[8:]}))
    settings = dataclasses.replace(
        preset(
            "small",
            annotation=tmp_path / "annotation.json",
            bags=tmp_path / "bags",
            out=tmp_path / "model",
        ),
        sizes=planted_bags.SIZES,
        bpe_vocab_size=300,
        epochs=2,
        threads=1,
    )
    result = train(settings, quiet=True)
    assert result.best["val_loss"] == min(row["val_loss"] for row in result.rows)
    assert load_report_model(result.folder).abstention_threshold >= 0.5
