"""A retrieval network in a model folder: optional, whole, with a digest of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_retrieval import add_retrieval, tiny_retrieval_model

from histgen_lib.access.model_sync import open_source, sync_model
from histgen_lib.cli.offline.model import facts_of
from histgen_lib.errors import FatalError
from histgen_lib.models.fgcr.checkpoint import load_retrieval, save_retrieval
from histgen_lib.models.fgcr.words import load_words
from histgen_lib.models.folder import ModelFolder, open_model_folder
from histgen_lib.models.histgen.checkpoint import load_model, save_model, update_config
from histgen_lib.storage import StorageSettings

FILES = ("fgcr.safetensors", "fgcr_words.json", "fgcr_image.onnx", "fgcr_text.onnx")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_retrieval_model(), tmp_path / "model"))


def refusal(path: Path, name: str) -> str:
    with pytest.raises(FatalError) as caught:
        open_model_folder(path).file(name)
    return caught.value.code


def test_a_folder_without_one_is_as_it_was(model_dir: Path) -> None:
    opened = open_model_folder(model_dir)
    assert opened.retrieval == {}
    assert opened.retrieval_digest == ""
    assert not {path.name for path in opened.files()} & set(FILES)
    for load in (lambda: load_retrieval(model_dir), lambda: load_words(opened)):
        with pytest.raises(FatalError) as caught:
            load()
        assert caught.value.code == "model-incomplete"


def test_what_is_saved_is_what_is_loaded(folder: Path) -> None:
    network, words = load_retrieval(folder), load_words(open_model_folder(folder))
    assert not network.training
    assert network.config.vocab_size == words.vocab_size
    again = load_retrieval(add_retrieval(folder, seed=0))
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def test_every_file_of_it_counts_towards_the_folders_digest(folder: Path) -> None:
    whole = open_model_folder(folder).digest
    for name in FILES:
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(kept + b" ")
        assert open_model_folder(folder).digest != whole, name
        (folder / name).write_bytes(kept)


def test_its_digest_follows_what_decides_its_vectors_and_nothing_else(folder: Path) -> None:
    def digest() -> str:
        return open_model_folder(folder).retrieval_digest

    before = digest()
    report_network = load_model(folder)
    with torch.no_grad():
        report_network.logit.bias += 1
    save_model(folder, report_network)
    opened = update_config(folder, retrieval={**open_model_folder(folder).retrieval, "thresholds": [1]})
    assert digest() == before
    update_config(folder, encoder={**opened.encoder, "sha256": "0" * 64})
    assert digest() != before
    update_config(folder, encoder=opened.encoder)
    for name in ("fgcr.safetensors", "fgcr_words.json"):
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(kept + b" ")
        assert digest() != before, name
        (folder / name).write_bytes(kept)
    network = {**opened.retrieval["network"], "heads": 1}
    update_config(folder, retrieval={**opened.retrieval, "network": network})
    assert digest() != before


def test_without_the_weights_the_digest_is_that_of_the_record(folder: Path) -> None:
    before = open_model_folder(folder).retrieval_digest
    (folder / "fgcr.safetensors").unlink()
    assert open_model_folder(folder).retrieval_digest == before


def test_graphs_of_other_weights_or_sizes_are_refused(folder: Path) -> None:
    opened = open_model_folder(folder)
    words = load_words(opened)
    other = load_retrieval(folder)
    with torch.no_grad():
        other.whole_token += 1
    save_retrieval(folder, other, words)
    assert refusal(folder, "fgcr_image.onnx") == "model-onnx"
    add_retrieval(folder)
    open_model_folder(folder).file("fgcr_image.onnx")
    section = open_model_folder(folder).retrieval
    update_config(folder, retrieval={**section, "network": {**section["network"], "temperature": 1.0}})
    assert refusal(folder, "fgcr_text.onnx") == "model-onnx"


def test_exporting_it_alone_does_not_vouch_for_the_other_graphs(folder: Path) -> None:
    with (folder / "histgen_step.onnx").open("ab") as graph:
        graph.write(b" ")
    add_retrieval(folder)
    assert refusal(folder, "fgcr_image.onnx") == "model-onnx"


@pytest.mark.parametrize(
    "content", [b"{}", b"[", b"[" * 200_000, b'{"schema": 1, "lower": true, "words": ["a"]}']
)
def test_a_vocabulary_that_does_not_fit_is_refused(content: bytes, folder: Path) -> None:
    (folder / "fgcr_words.json").write_bytes(content)
    with pytest.raises(FatalError) as caught:
        load_words(open_model_folder(folder))
    assert caught.value.code == "model-config"


@pytest.mark.parametrize("value", ["x", 5, [1]])
@pytest.mark.parametrize("part", ["network", "consistency"])
def test_a_section_that_is_none_is_refused(part: str, value: object, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_bytes())
    config["retrieval"][part] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(FatalError) as caught:
        open_model_folder(folder)
    assert caught.value.code == "model-config"


@pytest.mark.parametrize("name", ["config.json", "graphs.json"])
def test_json_without_end_is_refused(name: str, folder: Path) -> None:
    (folder / name).write_bytes(b"[" * 200_000)
    with pytest.raises(FatalError) as caught:
        open_model_folder(folder).file("fgcr_text.onnx")
    assert caught.value.code in ("model-config", "model-onnx")


def test_a_copied_model_has_it(folder: Path, tmp_path: Path) -> None:
    source = open_source(f"file:{folder}", StorageSettings(f"file:{folder}"))
    copy = sync_model(source, tmp_path / "models" / "in-use").folder
    opened: ModelFolder = open_model_folder(copy)
    assert opened.retrieval_digest == open_model_folder(folder).retrieval_digest
    assert {name for name in FILES if (copy / name).is_file()} == set(FILES)
    (folder / "fgcr_words.json").unlink()
    with pytest.raises(FatalError) as caught:
        sync_model(source, tmp_path / "models" / "other")
    assert caught.value.code == "model-incomplete"


def test_what_is_said_of_a_model_names_its_retrieval_network(folder: Path, model_dir: Path) -> None:
    facts = facts_of(open_model_folder(folder))
    assert facts["retrieval"]["sha256"] == open_model_folder(folder).retrieval_digest
    assert facts["retrieval"]["embed_dim"] == 16
    assert facts_of(open_model_folder(model_dir))["retrieval"] == {}
