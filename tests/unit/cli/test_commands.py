"""The commands, run in this process: what they print, how they exit, what they need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_model
import torch

from histgen_lib.cli.options import expand
from histgen_lib.errors import InvalidInputError

COMMANDS = [
    "report",
    "tiles",
    "encode",
    "demo",
    "doctor",
    "up",
    "submit",
    "status",
    "watch",
    "replay",
    "backfill",
    "supervise-models",
    "config",
    "export",
    "compile",
    "synth",
    "train-encoder",
    "train",
    "evaluate",
    "compare",
    "model",
]


def _python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout


def test_the_command_line_and_its_help_are_light():
    """Help takes a third of a second on an idle core; each of these packages would make it seconds."""
    loaded = _python("import sys, histgen_lib.cli.app as a; a.run(['--help']); print(*sys.modules)").split()

    assert not {"torch", "onnxruntime", "openslide", "cv2", "pyarrow", "numpy", "pydantic"} & set(loaded)


def test_reporting_needs_no_torch(model_dir, slide_path, tmp_path):
    """The base install has no torch: a run that cannot import it succeeds."""
    code = f"""
import sys
for name in ("torch", "onnx", "timm", "tensorboard"):
    sys.modules[name] = None
from histgen_lib.cli.app import run
print(run(["report", {str(slide_path)!r}, "--out", {str(tmp_path)!r}, "--model", {str(model_dir)!r}]))
"""
    assert _python(code).strip().endswith("0")
    assert (tmp_path / "sound" / "draft.json").is_file()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(histgen, command):
    code, out, _ = histgen(command, "--help")

    assert code == 0
    assert "Usage" in out
    assert command in ("model", "config") or f"histgen {command}" in out


def test_version(histgen):
    assert histgen("--version")[1].startswith("histgen ")


@pytest.mark.parametrize(
    "arguments", [["report"], ["report", "x.svs"], ["nonsense"], ["synth", "--count", "many"]]
)
def test_wrong_usage_exits_with_2_and_points_to_help(histgen, arguments):
    code, _, err = histgen(*arguments)

    assert code == 2
    assert err.startswith("error[usage]:")
    assert "--help" in err


def test_report_prints_the_draft_and_its_path(histgen, model_dir, slide_path, tmp_path):
    code, out, _ = histgen("report", slide_path, "--out", tmp_path, "--model", model_dir)

    assert code == 0
    assert "AI-generated draft, not for clinical use" in out
    assert "draft.html" in out.replace("\n", "")


def test_report_json_is_one_document_and_nothing_else(histgen, model_dir, slide_path, tmp_path):
    arguments = ("report", slide_path, "--out", tmp_path, "--model", model_dir, "--json")
    content = json.loads(histgen(*arguments)[1])
    draft = json.loads((tmp_path / "sound" / "draft.json").read_text())

    assert content["errors"] == []
    assert content["drafts"][0]["text"] == draft["text"]
    assert Path(content["drafts"][0]["files"]["html"]).is_file()
    assert json.loads(histgen(*arguments)[1])["drafts"][0]["status"] == "unchanged"


def test_bag_works_with_one_slide_only(histgen, model_dir, slide_path, tmp_path):
    _, _, err = histgen(
        "report",
        slide_path,
        slide_path.parent / "b.tif",
        "--out",
        tmp_path,
        "--model",
        model_dir,
        "--bag",
        "x.parquet",
    )

    assert "error[bag-one-slide]" in err


def test_tiles_draws_the_tiles_that_would_be_read(histgen, slide_path, tmp_path):
    code, out, _ = histgen("tiles", slide_path, "--out", tmp_path, "--tile-mpp", 1, "--json")
    facts = json.loads(out)["slides"][0]

    assert code == 0
    assert facts["tiles"] > 0
    assert facts["mpp_source"] == "file"
    assert Path(facts["preview"]).read_bytes().startswith(b"\x89PNG")


def test_tiles_never_draws_two_slides_into_one_picture(histgen, slide_path, tmp_path):
    for day in ("monday", "tuesday"):
        (tmp_path / day).mkdir()
        (tmp_path / day / "s.tif").write_bytes(slide_path.read_bytes())
    slides = (tmp_path / "monday" / "s.tif", tmp_path / "tuesday" / "s.tif")
    code, out, _ = histgen("tiles", *slides, "--out", tmp_path / "out", "--tile-mpp", 1, "--json")

    assert (code, [error["code"] for error in json.loads(out)["errors"]]) == (1, ["output-other-slide"])
    assert len(json.loads(out)["slides"]) == 1


def test_tiles_continues_past_a_bad_slide(histgen, slide_path, tmp_path):
    bad = tmp_path / "bad.svs"
    bad.write_text("no")
    code, out, err = histgen("tiles", bad, slide_path, "--out", tmp_path)

    assert code == 1
    assert "error[slide-format-unknown]" in err
    assert "sound" in out


def test_tiles_refuses_invalid_settings(histgen, slide_path, tmp_path):
    code, _, err = histgen("tiles", slide_path, "--out", tmp_path, "--tile-px", 3)

    assert code == 65
    assert "error[tiling-settings-invalid]" in err


def test_model_info_describes_the_model(histgen, model_dir):
    code, out, _ = histgen("model", "info", model_dir, "--json")
    facts = json.loads(out)

    assert code == 0
    assert facts["synthetic"] is True
    assert {file["name"] for file in facts["files"]} >= {
        "config.json",
        "histgen_step.onnx",
        "domain.safetensors",
    }
    assert "synthetic slides only" in histgen("model", "info", model_dir)[1]


def test_doctor_passes_a_working_installation(histgen, model_dir, tmp_path):
    code, out, _ = histgen("doctor", "--model", model_dir, "--out", tmp_path, "--json")
    content = json.loads(out)
    found = {check["name"]: check["status"] for check in content["checks"]}

    assert code == 0
    assert content["healthy"]
    assert {found[name] for name in ("python", "openslide", "onnxruntime", "model", "model run")} == {"pass"}


def test_doctor_names_the_fix_for_a_damaged_model(histgen, own_model_dir):
    (own_model_dir / "histgen_step.onnx").write_bytes(b"damaged")
    code, out, _ = histgen("doctor", "--model", own_model_dir, "--json")
    checks = {check["name"]: check for check in json.loads(out)["checks"]}

    assert code == 78
    assert checks["model run"]["status"] == "fail"
    assert checks["model run"]["fix"]


def test_doctor_notices_weights_that_config_json_does_not_name(histgen, own_model_dir):
    path = own_model_dir / "tile_encoder.safetensors"
    path.write_bytes(path.read_bytes() + b" ")
    checks = json.loads(histgen("doctor", "--model", own_model_dir, "--json")[1])["checks"]

    assert next(check for check in checks if check["name"] == "model")["status"] == "fail"


def test_commands_that_need_torch_report_when_it_is_missing(histgen, monkeypatch, tmp_path):
    monkeypatch.setattr("histgen_lib.cli.options.find_spec", lambda name: None)
    code, _, err = histgen("train", "--annotation", "a.json", "--bags", tmp_path, "--out", tmp_path)

    assert code == 78
    assert err.startswith("error[extra-train-missing]:")


def test_training_needs_bags_or_slides(histgen, tmp_path):
    code, _, err = histgen("train", "--annotation", "a.json", "--out", tmp_path)

    assert code == 65
    assert "error[train-bags-or-slides]" in err


def test_evaluate_a_csv(histgen, tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text('draft,truth\n"a b c d e","a b c d e"\n"a b c x e","a b c d e"\n', encoding="utf-8")
    arguments = ("--csv", path, "--prediction-column", "draft", "--reference-column", "truth", "--no-meteor")
    code, out, _ = histgen("evaluate", *arguments, "--out", tmp_path / "scores", "--json")
    content = json.loads(out)

    assert code == 0
    assert content["pairs"] == 2
    assert content["metrics"]["exact_report"]["value"] == 0.5
    assert json.loads((tmp_path / "scores" / "metrics.json").read_text()) == content
    assert "exact_report" in histgen("evaluate", *arguments)[1]


def test_evaluate_needs_something_to_evaluate(histgen):
    code, _, err = histgen("evaluate")

    assert code == 65
    assert "error[evaluate-source-missing]" in err


def test_evaluate_a_model_on_bags(histgen, model_dir, slide_path, tmp_path):
    histgen("report", slide_path, "--out", tmp_path / "drafts", "--model", model_dir)
    bags = tmp_path / "bags"
    bags.mkdir()
    (tmp_path / "drafts" / "sound" / "bag.parquet").rename(bags / "sound.parquet")
    annotation = tmp_path / "annotation.json"
    case = {"id": "sound", "report": tiny_model.REPORTS[0], "image_path": ["sound.tif"]}
    annotation.write_text(json.dumps({"train": [], "val": [], "test": [case]}))
    code, out, err = histgen(
        "evaluate", "--model", model_dir, "--annotation", annotation, "--bags", bags, "--no-meteor", "--json"
    )
    content = json.loads(out)

    assert code == 0, err
    assert content["pairs"] == 1
    assert content["calibration"]["count"] > 0


def test_a_folder_stands_for_its_slides_and_a_glob_for_its_matches(tmp_path):
    for name in ("b.svs", "a.tif", "notes.txt", ".hidden.svs"):
        (tmp_path / name).touch()
    (tmp_path / "dicom").mkdir()
    (tmp_path / "dicom" / "1.dcm").touch()
    names = [path.name for path in expand([str(tmp_path)])]

    assert names == ["a.tif", "b.svs", "dicom"]
    assert [path.name for path in expand([str(tmp_path / "*.svs"), str(tmp_path / "b.svs")])] == ["b.svs"]
    assert expand([str(tmp_path / "dicom")]) == [tmp_path / "dicom"]


def test_slides_among_dicom_files_are_found_too(tmp_path):
    for name in ("a.svs", "one.dcm", "two.dcm"):
        (tmp_path / name).touch()

    assert expand([str(tmp_path)]) == [tmp_path, tmp_path / "a.svs"]


def test_a_folder_includes_its_subfolders_and_the_rest_is_reported(tmp_path, capsys):
    for name in ("2026/01/a.svs", "2026/02/deep/b.tif", "2026/notes.txt", ".git/c.svs"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "2026" / "circle").symlink_to(tmp_path)
    names = [path.relative_to(tmp_path).as_posix() for path in expand([str(tmp_path)])]

    assert names == ["2026/01/a.svs", "2026/02/deep/b.tif"]
    messages = capsys.readouterr().err
    assert "3 left out" in messages
    for name in ("notes.txt", ".git", "circle"):
        assert name in messages


def test_a_folder_of_dicom_files_without_suffix_is_a_slide(tmp_path):
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "IM0002").write_bytes(bytes(128) + b"DICM")

    assert expand([str(tmp_path)]) == [tmp_path]


@pytest.mark.parametrize("command", ["report", "tiles", "encode", "submit"])
def test_a_folder_without_slides_is_an_error_that_lists_the_suffixes(histgen, monkeypatch, tmp_path, command):
    pytest.importorskip("torch") if command == "encode" else None
    for name, value in (("STORE", f"file:{tmp_path / 'o'}"), ("GATEWAY", "http://127.0.0.1:9")):
        monkeypatch.setenv(f"HISTGEN_{name}", value)
    monkeypatch.setenv("HISTGEN_HOME", str(tmp_path / "home"))
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    (tmp_path / "empty" / "deeper" / "notes.txt").touch()
    code, _, err = histgen(command, tmp_path / "empty", *(() if command == "submit" else ("--out", tmp_path)))

    assert code == 65
    assert "error[slide-is-folder]" in err
    assert "1 not named like slides (notes.txt)" in err
    assert ".svs" in err
    assert ".ndpi" in err


def test_a_glob_without_a_match_is_an_error(tmp_path):
    with pytest.raises(InvalidInputError) as caught:
        expand([str(tmp_path / "*.ndpi")])
    assert caught.value.code == "slide-none-found"


@pytest.mark.parametrize("command", ["report", "tiles", "encode", "submit"])
def test_an_empty_argument_is_not_the_current_folder(histgen, slide_path, tmp_path, monkeypatch, command):
    """As in `histgen submit "$SLIDE"` with an unset variable."""
    monkeypatch.chdir(slide_path.parent)
    options = ("--store", f"file:{tmp_path}", "--gateway", "http://127.0.0.1:9")
    code, _, err = histgen(command, "", *(options if command == "submit" else ("--out", tmp_path)))
    assert (code, "error[slide-none-found]" in err) == (65, True)


@pytest.mark.parametrize("mpp", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("command", ["report", "tiles", "submit"])
def test_a_resolution_that_is_not_a_number_is_wrong_usage(histgen, tmp_path, command, mpp):
    code, _, err = histgen(
        command, "a.svs", "--mpp", mpp, *(() if command == "submit" else ("--out", tmp_path))
    )
    assert (code, f"{mpp} is not a resolution" in err) == (2, True)


def test_synth_writes_slides_and_prints_where(histgen, tmp_path):
    code, out, _ = histgen("synth", "--count", 1, "--seed", 5, "--out", tmp_path, "--workers", 1, "--json")
    content = json.loads(out)

    assert code == 0
    assert Path(content["annotation"]).is_file()
    assert len(list((tmp_path / "slides").glob("*.tif"))) == 1


@pytest.fixture
def official(shared_dir, tmp_path) -> list[object]:
    """Return arguments that import weights trained with the authors' code, with a matching vocabulary."""
    words = [f"w{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(299)]
    case = {"id": "a", "report": " ".join(words * 10), "image_path": ["a.svs"]}
    annotation = tmp_path / "annotation.json"
    annotation.write_text(json.dumps({"train": [case], "val": [], "test": []}))
    weights = shared_dir / "reference" / "histgen" / "official_state_dict.pth"
    sizes = ["--num-heads", 8, "--topk", 32, "--prototype-num", 32, "--max-tokens", 40]
    return ["model", "import-official", weights, "--annotation", annotation, *sizes]


def test_published_weights_become_a_model_that_drafts_from_their_bags(histgen, official, tmp_path):
    code, out, err = histgen(*official, "--out", tmp_path / "model", "--encoder", "UNI", "--json")
    assert code == 0, err
    width = json.loads(out)["histgen"]["input_dim"]
    torch.save(torch.randn(50, width), tmp_path / "case.pt")
    code, out, err = histgen(
        "report", tmp_path / "case.pt", "--out", tmp_path / "o", "--model", tmp_path / "model"
    )

    assert code == 0, err
    assert (
        out.replace("\n", " ").count("cannot tell whether the slide resembles the slides it was trained on")
        == 1
    )


def test_weights_and_another_vocabulary_are_refused(histgen, official, tmp_path):
    code, _, err = histgen(*official, "--out", tmp_path / "model", "--threshold", 11)

    assert code == 65
    assert "error[import-vocabulary-mismatch]" in err
    assert not (tmp_path / "model").exists()


def test_sizes_that_published_weights_do_not_reveal_must_be_given(histgen, official, tmp_path):
    """Nothing is guessed: a wrong size would load but draft nonsense."""
    for option in ("--num-heads", "--topk"):
        del official[official.index(option) : official.index(option) + 2]
    code, _, err = histgen(*official, "--out", tmp_path / "model")

    assert code == 65
    assert err.startswith("error[checkpoint-size-missing]: The weights do not determine num_heads, topk.")
    assert not (tmp_path / "model").exists()
