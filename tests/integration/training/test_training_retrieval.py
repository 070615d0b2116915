"""Training the retrieval network of a model folder, and the commands that train, score and compare it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_runs import histgen
from planted_bags import FINDINGS, SPAN_PX, PlantedWorld

from histgen_lib.bags import read_bag, write_bag
from histgen_lib.errors import InvalidInputError
from histgen_lib.evaluation.retrieval import rank, score_ranked
from histgen_lib.files import sha256_file
from histgen_lib.models.fgcr.checkpoint import load_retrieval
from histgen_lib.models.fgcr.words import load_words
from histgen_lib.models.folder import open_model_folder
from histgen_lib.training import read_annotation
from histgen_lib.training.checkpoint import RunState
from histgen_lib.training.report.train import TrainResult
from histgen_lib.training.retrieval.embedding import Embedder
from histgen_lib.training.retrieval.settings import RetrievalSettings, in_mode, retrieval_preset
from histgen_lib.training.retrieval.train import RetrievalResult, train_retrieval
from histgen_lib.training.retrieval.validation import mean_precision

EPOCHS = 16


class StopError(Exception):
    """Stands for Ctrl-C."""


def _settings(world: PlantedWorld, model: Path, out: Path, epochs: int = EPOCHS) -> RetrievalSettings:
    chosen = retrieval_preset("small", annotation=world.annotation, bags=world.bags, model=model, out=out)
    sizes = dataclasses.replace(chosen.network, dim=32, mlp_dim=32, dim_head=8, embed_dim=32, text_ff=32)
    return dataclasses.replace(
        chosen, network=sizes, learning_rate=3e-3, epochs=epochs, batch_size=16, threads=1
    )


@pytest.fixture(scope="module")
def found(
    world: PlantedWorld, trained: TrainResult, tmp_path_factory: pytest.TempPathFactory
) -> RetrievalResult:
    out = tmp_path_factory.mktemp("retrieval") / "model"
    return train_retrieval(_settings(world, trained.folder, out), quiet=True)


def test_slides_and_reports_of_the_validation_split_find_their_kind(found: RetrievalResult) -> None:
    assert found.best["val_map"] >= 0.95
    assert {"val_image_image", "val_image_text", "val_text_image", "val_text_text"} <= set(found.best)


def test_the_folder_is_the_model_with_the_network_in_it(found: RetrievalResult, trained: TrainResult) -> None:
    folder = open_model_folder(found.folder)
    assert folder.retrieval["prompts"] == list(found.prompts)
    assert folder.retrieval["training"]["mode"] == "corrected"
    assert set(folder.retrieval["consistency"]) >= {"fields", "unchecked"}
    assert load_words(folder).words == found.words.words
    assert folder.retrieval_digest
    for name in ("histgen.safetensors", "tokenizer.json"):
        assert sha256_file(found.folder / name) == sha256_file(trained.folder / name)
    assert not open_model_folder(trained.folder).retrieval


def test_a_finding_of_one_tile_brings_slides_with_it(found: RetrievalResult, world: PlantedWorld) -> None:
    """Slides of the test split, which no training has seen, find those with their organ and necrosis."""
    cases = read_annotation(world.annotation)
    embedder = Embedder(load_retrieval(found.folder), load_words(open_model_folder(found.folder)))
    queries, gallery = (
        embedder.cases(
            [read_bag(world.bags / f"{one.id}.parquet") for one in some], [one.report for one in some]
        )
        for some in (cases.test, cases.train)
    )
    equal = np.array([[one.report == other.report for other in cases.train] for one in cases.test])
    found_by = {"text": queries.texts @ gallery.slides.T, "image": queries.slides @ gallery.slides.T}
    reached = {name: mean_precision(scores, equal) for name, scores in found_by.items()}
    assert min(reached.values()) >= 0.8, reached


def test_validation_computes_the_map_of_the_evaluation() -> None:
    rng = np.random.default_rng(1)
    scores, relevant = rng.normal(size=(20, 30)).astype(np.float32), rng.random((20, 30)) < 0.1
    expected = score_ranked(rank(scores, relevant, 5), (5,))["MAP@5"].estimate.value
    assert mean_precision(scores, relevant) == pytest.approx(expected)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_stopped_run_ends_as_an_uninterrupted_one(
    small_world: PlantedWorld, trained: TrainResult, tmp_path: Path, steps: int
) -> None:
    """With two steps an epoch: inside an epoch, and between epochs."""
    left = iter(range(steps))

    def stop(run: RunState) -> None:
        if next(left, None) is None:
            raise StopError

    def settings(name: str) -> RetrievalSettings:
        chosen = _settings(small_world, trained.folder, tmp_path / name, epochs=2)
        return dataclasses.replace(chosen, batch_size=8, save_every_s=0.0)

    with pytest.raises(StopError):
        train_retrieval(settings("stopped"), quiet=True, after_step=stop)
    assert not (tmp_path / "stopped" / "fgcr.safetensors").exists()
    digests = [
        open_model_folder(train_retrieval(settings(name), quiet=True).folder).retrieval_digest
        for name in ("stopped", "whole")
    ]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("changed", ["reports", "bags"])
def test_a_run_on_other_data_is_not_resumed(
    small_world: PlantedWorld, trained: TrainResult, tmp_path: Path, changed: str
) -> None:
    """Reports of the same lengths, or bags that state another encoder of the same width."""
    settings = _settings(small_world, trained.folder, tmp_path / "out", epochs=1)
    train_retrieval(settings, quiet=True)
    model = shutil.copytree(trained.folder, tmp_path / "model")
    config = json.loads((model / "config.json").read_bytes())
    config["encoder"]["sha256"] = ""
    (model / "config.json").write_text(json.dumps(config))
    for path in small_world.bags.iterdir():
        other = dataclasses.replace(read_bag(path), encoder_sha256="1" * 64)
        write_bag(other, tmp_path / "bags" / path.name)
    annotation = tmp_path / "annotation.json"
    annotation.write_text(small_world.annotation.read_text().replace("Tumour", "Growth"))
    other = {
        "reports": dataclasses.replace(settings, annotation=annotation),
        "bags": dataclasses.replace(settings, bags=tmp_path / "bags", model=model),
    }
    with pytest.raises(InvalidInputError) as caught:
        train_retrieval(other[changed], quiet=True)
    assert caught.value.code == "training-state-differs"


def test_a_published_network_trains_into_a_folder_in_place(
    small_world: PlantedWorld, trained: TrainResult, tmp_path: Path
) -> None:
    shutil.copytree(trained.folder, tmp_path / "model")
    settings = in_mode(_settings(small_world, tmp_path / "model", tmp_path / "model", epochs=1), "published")
    result = train_retrieval(settings, quiet=True)
    assert open_model_folder(result.folder).retrieval["network"]["mode"] == "published"
    assert not load_retrieval(result.folder).config.corrected


def test_bags_of_another_encoder_are_refused(
    small_world: PlantedWorld, trained: TrainResult, tmp_path: Path
) -> None:
    for path in small_world.bags.iterdir():
        other = dataclasses.replace(read_bag(path), encoder_sha256="1" * 64)
        write_bag(other, tmp_path / "bags" / path.name)
    settings = dataclasses.replace(
        _settings(small_world, trained.folder, tmp_path / "out"), bags=tmp_path / "bags"
    )
    with pytest.raises(InvalidInputError) as caught:
        train_retrieval(settings, quiet=True)
    assert caught.value.code == "training-bags-differ"
    assert not (tmp_path / "out").exists()


def _write_truth(world: PlantedWorld, folder: Path) -> None:
    """Write the truth of each slide: its lesion is the tile that shows the finding."""
    folder.mkdir()
    for path in world.bags.iterdir():
        bag = read_bag(path)
        tile = int(bag.features[:, 4 : 4 + len(FINDINGS)].max(axis=1).argmax())
        x, y = (int(one) for one in bag.xy[tile])
        square = [[x, y], [x + SPAN_PX, y], [x + SPAN_PX, y + SPAN_PX], [x, y + SPAN_PX]]
        lesion = {"kind": "planted", "field": "diagnosis", "polygon": square}
        (folder / f"{path.stem}.json").write_text(json.dumps({"lesions": [lesion]}))


def test_the_commands_train_score_and_compare(
    small_world: PlantedWorld, trained: TrainResult, tmp_path: Path
) -> None:
    """On 16 slides: what they print is whole; how good it is, other tests say."""
    truth = tmp_path / "truth"
    _write_truth(small_world, truth)
    common = ["--annotation", small_world.annotation, "--bags", small_world.bags]
    model = tmp_path / "model"
    run = histgen(
        "train-retrieval",
        *common,
        "--model",
        trained.folder,
        "--epochs",
        1,
        "--threads",
        1,
        "--out",
        model,
        "--json",
    )
    assert run.code == 0, run.err
    assert json.loads(run.out)["prompts"]
    assert (model / "fgcr_image.onnx").is_file()
    run = histgen(
        "evaluate-retrieval", *common, "--model", model, "--truth", truth, "--bootstrap", 20, "--json",
        "--out", tmp_path / "scores",
    )  # fmt: skip
    assert run.code == 0, run.err
    scores = json.loads(run.out)
    assert json.loads((tmp_path / "scores" / "retrieval.json").read_bytes()) == scores
    assert set(scores["tasks"]) == {
        "image→image", "image→text", "text→image", "text→text", "regions→regions", "text→regions"
    }  # fmt: skip
    assert 0 < scores["tasks"]["text→text"]["MAP@5"]["chance"] < 1
    assert set(scores["evidence"]) == {"region", "box"}
    page = tmp_path / "page.md"
    run = histgen(
        "compare-retrieval", *common, "--model", model, "--truth", truth, "--bootstrap", 20, "--epochs", 1,
        "--train-annotation", small_world.annotation, "--train-bags", small_world.bags,
        "--train-truth", truth, "--threads", 1, "--table", page, "--out", tmp_path / "searches",
    )  # fmt: skip
    assert run.code == 0, run.err
    text = page.read_text(encoding="utf-8")
    for name in ("mean of the features", "patch sets", "mean pooling", "attention pooling", "FGCR published"):
        assert f"| {name}" in text
    assert str(tmp_path) not in text
