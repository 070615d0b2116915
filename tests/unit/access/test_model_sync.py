"""`histgen model sync`: a model folder arrives whole, checked, once, and under the eyes of workers."""

from __future__ import annotations

import json
import pickle
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from compiled_model import compiled_tiny
from servers.s3_servers import S3Server

from histgen_lib.access.model_sync import Source, model_files, open_source, sync_model
from histgen_lib.errors import FatalError, InvalidInputError, TransientError
from histgen_lib.models.folder import open_model_folder
from histgen_lib.models.histgen.checkpoint import update_config
from histgen_lib.storage import StorageSettings


def source_of(folder: Path) -> Source:
    return open_source(f"file:{folder}", StorageSettings(f"file:{folder}"))


def names_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models" / "in-use"


class Cut:
    """A source that breaks off when it is asked for a certain file."""

    def __init__(self, source: Source, at: str) -> None:
        self._source, self.at, self.fetched = source, at, []

    def sizes(self) -> dict[str, int]:
        return self._source.sizes()

    def fetch(self, name: str, path: Path) -> None:
        if name == self.at:
            raise TransientError("storage-unavailable", "The line is down.")
        self._source.fetch(name, path)
        self.fetched.append(name)


def test_a_copy_is_the_model(own_model_dir: Path, target: Path) -> None:
    synced = sync_model(source_of(own_model_dir), target)

    assert synced.changed
    assert open_model_folder(target).digest == synced.digest == open_model_folder(own_model_dir).digest
    assert names_in(target) == names_in(own_model_dir) & set(model_files())


def test_engines_come_along_and_are_checked(target: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(compiled_tiny(), tmp_path / "compiled"))
    sync_model(source_of(model), target)
    assert len(list((target / "engines" / "tensorrt").iterdir())) == 9

    (model / "engines" / "tensorrt" / "histgen_step.engine").write_bytes(b"damaged")
    with pytest.raises(FatalError, match="histgen_step"):
        sync_model(source_of(model), tmp_path / "another")
    assert not (tmp_path / "another").exists()


def test_a_second_copy_fetches_only_what_is_small(own_model_dir: Path, target: Path) -> None:
    first = sync_model(source_of(own_model_dir), target)
    second = sync_model(source_of(own_model_dir), target)

    assert (second.changed, second.digest) == (False, first.digest)
    small = sum((target / name).stat().st_size for name in names_in(target) if name.endswith(".json"))
    assert second.copied_bytes == small + (target / "domain.safetensors").stat().st_size


def test_a_copy_that_was_cut_off_leaves_nothing_and_is_continued(own_model_dir: Path, target: Path) -> None:
    cut = Cut(source_of(own_model_dir), at="tile_encoder.onnx")
    with pytest.raises(TransientError):
        sync_model(cut, target)
    assert not target.exists()

    cut.at, before = "", list(cut.fetched)
    cut.fetched.clear()
    assert sync_model(cut, target).changed
    assert {name for name in before if name.endswith(".onnx")}.isdisjoint(cut.fetched)
    assert "tile_encoder.onnx" in cut.fetched


def test_a_newer_model_takes_the_place_at_once_and_running_workers_keep_theirs(
    own_model_dir: Path, target: Path
) -> None:
    first = sync_model(source_of(own_model_dir), target)
    held, before = (target / "config.json").open(), target.resolve()
    update_config(own_model_dir, abstention={"threshold": 0.5, "statistic": "diagnosis"})
    second = sync_model(source_of(own_model_dir), target)

    assert second.digest != first.digest
    assert second.copied_bytes < first.copied_bytes  # weights and graphs are the same
    assert open_model_folder(target).digest == second.digest
    assert json.load(held) != json.loads((target / "config.json").read_text())
    assert names_in(before) == names_in(target)
    assert open_model_folder(before).digest == first.digest

    update_config(own_model_dir, abstention={"threshold": 0.6, "statistic": "diagnosis"})
    sync_model(source_of(own_model_dir), target)
    versions = [path for path in target.parent.iterdir() if path.is_dir() and not path.is_symlink()]
    assert len(versions) == 2  # the one in use, and the one before


def test_readers_never_meet_a_folder_that_is_absent_or_mixed(own_model_dir: Path, target: Path) -> None:
    sync_model(source_of(own_model_dir), target)
    stop, seen = threading.Event(), set()

    def read() -> None:
        while not stop.is_set():
            seen.add(open_model_folder(target).config["abstention"]["threshold"])

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        try:
            for number in range(5):
                update_config(own_model_dir, abstention={"threshold": number / 10, "statistic": "diagnosis"})
                sync_model(source_of(own_model_dir), target)
        finally:
            stop.set()
        reader.result()
    assert seen


@pytest.mark.parametrize("name", ["tile_encoder.onnx", "tokenizer.json"])
def test_a_version_in_use_that_was_damaged_is_mended_and_that_is_said(
    own_model_dir: Path, target: Path, name: str
) -> None:
    """Those who read the damaged one keep it until the next change: nothing is missing for a moment."""
    sync_model(source_of(own_model_dir), target)
    damaged = target.resolve()
    (target / name).write_bytes(b"damaged")
    mended = sync_model(source_of(own_model_dir), target)

    assert mended.changed
    assert (target / name).read_bytes() == (own_model_dir / name).read_bytes()
    assert (damaged / name).read_bytes() == b"damaged"
    assert not sync_model(source_of(own_model_dir), target).changed

    (target / name).unlink()
    assert sync_model(source_of(own_model_dir), target).changed
    assert names_in(target) == names_in(own_model_dir) & set(model_files())


def test_a_version_before_that_was_damaged_does_not_come_back(own_model_dir: Path, target: Path) -> None:
    sync_model(source_of(own_model_dir), target)
    before, config = target.resolve(), (own_model_dir / "config.json").read_bytes()
    update_config(own_model_dir, abstention={"threshold": 0.5, "statistic": "diagnosis"})
    sync_model(source_of(own_model_dir), target)
    (before / "tokenizer.json").write_bytes(b"damaged")
    (own_model_dir / "config.json").write_bytes(config)

    assert sync_model(source_of(own_model_dir), target).changed
    assert (target / "tokenizer.json").read_bytes() == (own_model_dir / "tokenizer.json").read_bytes()
    assert (target / "config.json").read_bytes() == config


def test_copies_that_run_at_once_do_not_trip_over_each_other(own_model_dir: Path, target: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        synced = list(pool.map(lambda _: sync_model(source_of(own_model_dir), target), range(4)))

    assert [one.changed for one in synced].count(True) == 1
    assert len({one.digest for one in synced}) == 1


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda model: (model / "tile_encoder.onnx").write_bytes(b"other"), "model-onnx"),
        (lambda model: (model / "histgen.safetensors").write_bytes(b"other"), "model-onnx"),
        (lambda model: (model / "graphs.json").unlink(), "model-incomplete"),
        (lambda model: (model / "tokenizer.json").unlink(), "model-incomplete"),
        (lambda model: (model / "config.json").write_text("{}"), "model-config"),
        (lambda model: (model / "config.json").unlink(), "model-missing"),
    ],
)
def test_a_model_that_is_not_whole_does_not_arrive(own_model_dir: Path, target: Path, damage, code) -> None:
    damage(own_model_dir)
    with pytest.raises(FatalError) as caught:
        sync_model(source_of(own_model_dir), target)

    assert (caught.value.code, target.exists()) == (code, False)


def test_a_broken_model_does_not_take_the_place_of_a_sound_one(own_model_dir: Path, target: Path) -> None:
    before = sync_model(source_of(own_model_dir), target).digest
    (own_model_dir / "tokenizer.json").unlink()
    with pytest.raises(FatalError):
        sync_model(source_of(own_model_dir), target)

    assert open_model_folder(target).digest == before


def test_only_the_model_that_was_named_arrives(own_model_dir: Path, target: Path) -> None:
    digest = open_model_folder(own_model_dir).digest
    with pytest.raises(FatalError) as caught:
        sync_model(source_of(own_model_dir), target, digest="0" * 64)
    assert (caught.value.code, target.exists()) == ("model-other", False)
    assert sync_model(source_of(own_model_dir), target, digest=digest).changed


def test_nothing_but_a_models_files_is_copied(own_model_dir: Path, target: Path) -> None:
    (own_model_dir / "evil.pkl").write_bytes(pickle.dumps("code"))
    (own_model_dir / "model.py").write_text("raise SystemExit")
    sync_model(source_of(own_model_dir), target)

    assert not {"evil.pkl", "model.py"} & names_in(target)


def test_a_folder_of_somebody_else_is_not_touched(own_model_dir: Path, target: Path) -> None:
    target.mkdir(parents=True)
    (target / "thesis.txt").write_text("mine")
    with pytest.raises(FatalError) as caught:
        sync_model(source_of(own_model_dir), target)

    assert caught.value.code == "model-folder-foreign"
    assert (target / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("uri", ["", "https://models/x", "file:relative"])
def test_what_is_no_place_is_refused(uri: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        open_source(uri, StorageSettings("file:/nowhere"))
    assert caught.value.code == "model-source"


def test_names_in_a_bucket_decide_no_path(own_model_dir: Path, target: Path, moto_server: S3Server) -> None:
    bucket = moto_server.make_bucket()
    client = moto_server.client(bucket)
    for name in names_in(own_model_dir):
        client.upload_file(str(own_model_dir / name), bucket, f"lab/breast/{name}")
    for key in ("lab/breast/../../escaped.json", "lab/breast/more/config.json", "lab/breast-2/config.json"):
        client.put_object(Bucket=bucket, Key=key, Body=b"{}")
    synced = sync_model(open_source(f"s3://{bucket}/lab/breast", moto_server.settings(bucket)), target)

    assert synced.digest == open_model_folder(own_model_dir).digest
    assert names_in(target) == names_in(own_model_dir) & set(model_files())
    assert not list(target.parent.parent.rglob("escaped.json"))
