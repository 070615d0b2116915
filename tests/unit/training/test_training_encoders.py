"""Encoders as people name them, and several of them on one slide."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model
import torch
from tiny_encoders import VIT, loaded, write_encoder, write_vit

from histgen_lib.bags import read_bag, write_bag
from histgen_lib.cli.app import run
from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.files import sha256_file
from histgen_lib.models.serving import Compute
from histgen_lib.pipeline.scan.torch_encoder import TorchEncoder
from histgen_lib.slides import Slide
from histgen_lib.training.encoder import encode
from histgen_lib.training.encoder.slide_bags import encode_slide
from histgen_lib.training.encoder.source import EncoderChoice, choose_encoder


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write_slide(tmp_path_factory.mktemp("slide") / "s.tif", side_px=1024)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two encoders that take the same tiles, and one that takes larger ones."""
    place = tmp_path_factory.mktemp("encoders")
    wanted = {"a": (8, 64), "b": (12, 64), "large": (8, 128)}
    return {n: write_encoder(place / n, n, dim=dim, tile_px=px) for n, (dim, px) in wanted.items()}


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect the tile sides of every decoding of a slide."""
    found: list[int] = []
    read_tiles = Slide.read_tiles

    def counted(self: Slide, grid: Any, **options: Any) -> Iterator[Any]:
        found.append(grid.tile_px)
        return read_tiles(self, grid, **options)

    monkeypatch.setattr(Slide, "read_tiles", counted)
    return found


@pytest.mark.parametrize(
    ("text", "name", "weights"),
    [
        ("uni", "uni", None),
        ("uni=/w/model.bin", "uni", "/w/model.bin"),
        ("uni=/odd=name/w.bin", "uni", "/odd=name/w.bin"),
        ("uni?img_size=448=w.bin", "uni?img_size=448", "w.bin"),
        ("timm:vit?a=1&b=x=/p&q=r/w.pth", "timm:vit?a=1&b=x", "/p&q=r/w.pth"),
        ("timm:vit?a=1", "timm:vit?a=1", None),
        ("mine.encoders:build=w.safetensors", "mine.encoders:build", "w.safetensors"),
        ("onnx:/models/e=1.onnx", "onnx:/models/e=1.onnx", None),
    ],
)
def test_a_name_is_taken_apart_wherever_there_is_an_equals_sign(
    text: str, name: str, weights: str | None
) -> None:
    assert choose_encoder(text) == EncoderChoice(name, Path(weights) if weights else None)


@pytest.mark.parametrize("text", ["runs/encoder", "./uni", "/m=1/encoder"])
def test_a_path_is_a_folder(text: str) -> None:
    assert choose_encoder(text) == EncoderChoice(folder=Path(text))


def test_a_folder_with_the_name_of_an_encoder_is_that_folder(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders["a"].parent)
    assert choose_encoder("a") == EncoderChoice(folder=Path("a"))


def test_encoders_that_want_the_same_tiles_share_one_decoding(
    slide: Path, folders: dict[str, Path], tmp_path: Path, decodings: list[int]
) -> None:
    works = loaded([EncoderChoice(folder=path) for path in folders.values()], tmp_path)
    outcome = encode_slide(slide, works, None)
    assert (sorted(outcome.written), outcome.error) == ([0, 1, 2], None)
    assert sorted(decodings) == [64, 128]
    for name, path in folders.items():
        alone = tmp_path / "alone" / name
        encode_slide(slide, loaded([EncoderChoice(folder=path)], alone), None)
        assert (alone / "s.parquet").read_bytes() == (tmp_path / name / "s.parquet").read_bytes()


def test_an_encoder_added_later_encodes_alone_and_what_is_there_is_not_decoded(
    slide: Path, folders: dict[str, Path], tmp_path: Path, decodings: list[int]
) -> None:
    one, both = ([EncoderChoice(folder=folders[name]) for name in names] for names in ("a", "ab"))
    encode_slide(slide, loaded(one, tmp_path), None)
    outcome = encode_slide(slide, loaded(both, tmp_path), None)
    assert (outcome.written, outcome.kept, decodings) == ([1], [0], [64, 64])
    assert (tmp_path / "a" / "s.parquet").read_bytes() == (tmp_path / "s.parquet").read_bytes()
    again = encode_slide(slide, loaded(both, tmp_path), None)
    assert (again.written, again.kept, len(decodings)) == ([], [0, 1], 2)


@pytest.mark.parametrize(
    ("changed", "kept"),
    [
        ({"encoder_settings": ""}, True),
        ({"encoder_settings": "1" * 64}, False),
        ({"encoder_sha256": "1" * 64}, False),
        ({"mpp": 1.0}, False),
        ({"tile_px": 32}, False),
    ],
)
def test_only_a_bag_of_these_weights_settings_and_tiles_counts_as_there(
    slide: Path, folders: dict[str, Path], tmp_path: Path, changed: dict[str, Any], kept: bool
) -> None:
    """One of before settings were recorded does, too."""
    works = loaded([EncoderChoice(folder=folders["a"])], tmp_path)
    encode_slide(slide, works, None)
    mine = read_bag(tmp_path / "s.parquet")
    write_bag(replace(mine, **changed), tmp_path / "s.parquet")
    outcome = encode_slide(slide, works, None)
    assert (outcome.kept, outcome.written) == (([0], []) if kept else ([], [0]))
    assert kept or read_bag(tmp_path / "s.parquet") == mine


def test_a_published_architecture_with_a_weights_file_encodes_and_states_its_digests(
    slide: Path, tmp_path: Path
) -> None:
    weights = write_vit(tmp_path / "vit.safetensors")
    choice = choose_encoder(f"{VIT}={weights}", tile_px=128, mpp=2.0)
    encode_slide(slide, loaded([choice], tmp_path), None)
    bag = read_bag(tmp_path / "s.parquet")
    assert (bag.encoder_name, bag.encoder_sha256) == (VIT, sha256_file(weights))
    assert (bag.features.shape[1], bag.tile_px, bag.mpp) == (64, 128, 2.0)
    settings = {
        replace(choice, tile_px=px, mpp=mpp).open().maker.settings for px in (64, 128) for mpp in (1, 2)
    }
    assert len(settings) == 4
    assert bag.encoder_settings in settings


def test_an_onnx_file_encodes_under_its_name_without_this_machines_folders(
    slide: Path, model_dir: Path, tmp_path: Path
) -> None:
    file = model_dir / "tile_encoder.onnx"
    encode_slide(slide, loaded([choose_encoder(f"onnx:{file}", tile_px=64, mpp=2.0)], tmp_path), None)
    encode_slide(slide, loaded([choose_encoder(str(model_dir))], tmp_path / "torch"), None)
    bag, other = (read_bag(path / "s.parquet") for path in (tmp_path, tmp_path / "torch"))
    assert (bag.encoder_name, bag.encoder_sha256) == ("onnx:tile_encoder.onnx", sha256_file(file))
    assert np.allclose(bag.features, other.features, atol=2e-3, rtol=2e-3)


def test_encoding_on_several_threads_gives_what_one_thread_gives(
    slide: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    """As slides on a GPU are: several of them are read, and feed one network."""
    [work] = loaded([EncoderChoice(folder=folders["a"])], tmp_path)
    slides = [tiny_model.write_slide(tmp_path / f"{n}.tif", side_px=640, seed=n) for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda path: encode_slide(path, [work], None), slides))
    assert [one.written for one in outcomes] == [[0]] * 4
    for path in slides:
        alone = replace(work, place=replace(work.place, folder=tmp_path / "alone"))
        encode_slide(path, [alone], None)
        assert read_bag(tmp_path / "alone" / f"{path.stem}.parquet") == read_bag(
            tmp_path / f"{path.stem}.parquet"
        )


@pytest.mark.parametrize("name", ["a", VIT])
def test_a_network_in_bfloat16_gives_nearly_the_features_of_float32(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    weights = write_vit(tmp_path / "w.safetensors")
    network = choose_encoder(str(folders["a"]) if name == "a" else f"{VIT}={weights}").open().load()
    tiles = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    exact = TorchEncoder(network, Compute()).start(tiles).float()
    rough = TorchEncoder(network, Compute(precision="bfloat16")).start(tiles).float()
    assert torch.nn.functional.cosine_similarity(exact, rough).min() > 0.99
    assert not torch.equal(exact, rough)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named_before_any_work(
    slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["encode", str(slide), "--out", str(tmp_path / "bags"), "--device", "cuda"]) == 78
    assert "error[device-unavailable]" in capsys.readouterr().err
    assert not (tmp_path / "bags").exists()


def test_two_encoders_of_one_name_never_share_a_folder(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as raised:
        loaded([EncoderChoice(folder=folders["a"])] * 2, tmp_path)
    assert raised.value.code == "encoders-same-name"


def test_a_folder_without_an_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FatalError) as raised:
        choose_encoder(f"{tmp_path}/none").open()
    assert raised.value.code == "training-encoder-unreadable"


def test_the_command_lists_each_encoder_in_json(
    slide: Path,
    folders: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In this process, which has torch loaded; others are started in tests/integration/training."""
    monkeypatch.setattr(encode, "process_pool", lambda _count: ThreadPoolExecutor(1))
    options = ["--encoder", str(folders["a"]), "--encoder", str(folders["large"]), "--workers", "1", "--json"]
    assert run(["encode", str(slide), "--out", str(tmp_path), *options]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["written"], printed["kept"], printed["errors"]) == (2, 0, [])
    listed = {one["name"]: one for one in printed["encoders"]}
    assert set(listed) == {"a", "large"}
    for name, one in listed.items():
        bag = read_bag(tmp_path / name / "s.parquet")
        assert one["folder"] == str(tmp_path / name)
        assert (one["sha256"], one["settings_sha256"]) == (bag.encoder_sha256, bag.encoder_settings)
        assert (one["dim"], one["tile_px"], one["written"], one["kept"]) == (8, bag.tile_px, 1, 0)
