"""What a person says by `histgen sign`, `withdraw` and `cases` reaches store, broker, log and index."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cli_runs import histgen
from job_kit import JobLab, drafts_of, event_of, scanned
from running_services import Services
from tiny_model import write_slide
from tiny_retrieval import tiny_retrieval_model

from histgen_lib.bags import read_bag, write_bag
from histgen_lib.bus import BusSettings, open_subscription
from histgen_lib.retrieval import CaseIndex, CaseIndexSettings, open_case_index
from histgen_lib.storage import StorageSettings

TEXT = "Colon, biopsy:\n  Adenoma"


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> JobLab:
    """Draft a slide, and a case of two."""
    folder = tmp_path_factory.mktemp("lab")
    lab = JobLab.at(folder, tiny_retrieval_model())
    slide, *others = [write_slide(folder / f"S-{n}.tif", side_px=512, seed=n) for n in (17, 18, 19)]
    of_case = {"case_id": "C-4", "case_slides": ("S-18", "S-19")}
    events = [event_of(scanned(slide)), *(event_of(scanned(one, **of_case)) for one in others)]
    assert len(drafts_of(lab, events)) == 2
    return lab


@pytest.fixture(scope="module")
def gateway(lab: JobLab) -> Iterator[Services]:
    services = Services(lab.folder, lab.model.folder.path, ("gateway",))
    services.url("gateway")
    yield services
    services.kill()


@pytest.fixture
def here(lab: JobLab, gateway: Services, monkeypatch) -> Path:
    """Have commands find the gateway, the store and the index of the lab."""
    monkeypatch.setenv("HISTGEN_GATEWAY", gateway.url("gateway"))
    monkeypatch.setenv("HISTGEN_TOKEN_FILE", str(lab.folder / "token"))
    monkeypatch.setenv("HISTGEN_STORE", gateway.store_url)
    monkeypatch.setenv("HISTGEN_CASE_INDEX", f"file:{lab.folder / 'index'}")
    monkeypatch.setenv("HISTGEN_HOME", str(lab.folder / "no-stack"))
    return lab.folder


def test_signing_withdrawing_and_rebuilding(lab: JobLab, gateway: Services, here: Path):
    model, text = lab.model.folder.path, here / "report.txt"
    text.write_text(TEXT, encoding="utf-8")

    signed = json.loads(histgen("sign", "S-17", "--text", text, "--stain", "HE", "--json").out)
    assert signed["signed_key"] == f"signed/S-17/{signed['report_digest']}.json"
    assert histgen("sign", "--case", "C-4").out.startswith("The case C-4 is signed")
    done = histgen("cases", "rebuild", "--model", model)
    assert done.code == 0, done.err
    with closing(index_in(here)) as index:
        entry = index.find("S-17")
        assert (entry.text, entry.signed, entry.stain) == (TEXT, True, "HE")
        assert index.find("S-18").owner == index.find("S-19").owner == "case/C-4"

    assert "is withdrawn" in histgen("withdraw", "--case", "C-4", "--reason", "wrong patient").out
    assert histgen("sign", "--case", "C-4").code == 65
    state = json.loads(histgen("cases", "rebuild", "--model", model, "--json").out)
    assert (state["cases"], state["slides"]) == (1, 1)
    assert histgen("sign", "--case", "C-4", "--reinstate").code == 0
    assert json.loads(histgen("cases", "rebuild", "--model", model, "--json").out)["slides"] == 3
    assert histgen("cases", "compact").code == 0
    assert "2 cases, 3 slides" in histgen("cases", "state").out
    said = [json.loads(data)["action"] for key, data in sorted(lab.store.contents("audit/").items())]
    assert said == ["signed", "signed", "withdrawn", "reinstated"]
    assert not lab.store.contents("gateway/outbox/")
    assert events(gateway, "report.signed") == ["S-17", "case/C-4", "case/C-4"]
    assert events(gateway, "case.withdrawn") == ["case/C-4"]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("sign", "nobody"), "case-unknown"),
        (("withdraw", "nobody"), "case-unknown"),
        (("withdraw", "--case", "S-17"), "case-unknown"),
        (("sign", "../x"), "case-unknown"),
        (("sign", "S-17", "--report", "0" * 64), "case-undrafted"),
        (("sign", "S-17", "--report", "latest"), "request-invalid"),
        (("sign",), "case-unstated"),
        (("sign", "S-17", "--text", "/dev/null"), "signed-text-empty"),
    ],
)
def test_what_cannot_be_is_refused_with_a_code(here: Path, command, code):
    run = histgen(*command, "--json")
    assert run.code == 65
    assert json.loads(run.out)["error"]["code"] == code


def test_a_folder_of_features_becomes_an_index(lab: JobLab, here: Path, tmp_path: Path):
    bags = tmp_path / "bags"
    bags.mkdir()
    for path in (here / "store" / "bags").rglob("*.parquet"):
        write_bag(read_bag(path), bags / f"{path.parent.name}.parquet")
    cases = [{"id": "S-17", "report": TEXT}, {"id": "pair", "report": TEXT, "image_path": ["S-18", "S-19"]}]
    (tmp_path / "annotation.json").write_text(json.dumps({"train": cases, "val": [], "test": []}))
    run = histgen(
        *("cases", "index", "--bags", bags, "--annotation", tmp_path / "annotation.json"),
        *("--model", lab.model.folder.path, "--out", tmp_path / "index"),
    )

    assert run.code == 0, run.err
    assert "2 cases, 3 slides" in run.out
    with closing(index_in(tmp_path)) as index:
        assert index.find("S-17").signed
        assert index.find("S-18").owner == "case/pair"


def test_a_model_without_a_retrieval_network_fills_no_index(here: Path, model_dir: Path):
    run = histgen("cases", "rebuild", "--model", model_dir, "--json")
    assert (run.code, json.loads(run.out)["error"]["code"]) == (78, "model-without-retrieval")


def index_in(folder: Path) -> CaseIndex:
    return open_case_index(CaseIndexSettings(StorageSettings(f"file:{folder / 'index'}")))


def events(services: Services, topic: str) -> list[str]:
    """Return the keys of all events on a topic so far."""
    found = []
    with closing(open_subscription(BusSettings(services.bus), topic, "reader")) as reader:
        while delivery := reader.next(0.5):
            found.append(delivery.event.key)
            reader.done(delivery)
    return sorted(found)
