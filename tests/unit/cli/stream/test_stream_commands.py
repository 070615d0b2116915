"""Commands of the stream report what is wrong by a sentence, a code and a hint."""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime

import pytest

from histgen_lib.catalogue.audit import Audit
from histgen_lib.client.home import StackHome
from histgen_lib.storage import StorageSettings, open_store
from services.gateway.backfill import Tally


@pytest.fixture(autouse=True)
def no_stack(monkeypatch, tmp_path):
    """Have every command look for its stack in an empty folder."""
    for name in ("HISTGEN_STORE", "HISTGEN_BUS", "HISTGEN_GATEWAY", "HISTGEN_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HISTGEN_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(
    "arguments",
    [("submit", "a.svs"), ("status",), ("status", "a"), ("watch",), ("replay", "--all"), ("backfill", "/")],
)
def test_without_a_stack_a_command_says_how_to_start_one(histgen, arguments):
    code, out, err = histgen(*arguments)

    assert (code, out) == (75, "")
    assert err.startswith("error[stack-not-running]")
    assert "histgen up" in err


def test_with_json_the_error_is_a_document(histgen):
    assert json.loads(histgen("status", "--json")[1])["error"]["code"] == "stack-not-running"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--broker", "rabbit://host"), "bus-url"),
        (("--store", "ftp://host"), "storage-url"),
        (("--inference", "magic"), "inference-stated"),
        (("--model", "/nowhere"), "model-missing"),
        (("--allow", "http://host/scans"), "settings-invalid"),
        (("--allow", ""), "settings-invalid"),
    ],
)
def test_up_refuses_wrong_options_before_it_starts_anything(histgen, tmp_path, options, expected):
    code, _, err = histgen("up", *options)

    assert code == 78
    assert err.startswith(f"error[{expected}]")
    assert not (tmp_path / "home" / "logs" / "gateway.log").exists()
    assert not StackHome(tmp_path / "home").running()


def test_a_stack_that_nohup_started_outlives_its_terminal(histgen):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        histgen("up", "--broker", "rabbit://host")
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_up_with_kafka_says_what_is_missing(histgen, monkeypatch, tmp_path):
    monkeypatch.setenv("HISTGEN_KAFKA_LIBS", str(tmp_path))
    code, _, err = histgen("up", "--broker", "kafka", "--inference", "onnx")

    assert code == 78
    assert "error[kafka-missing]" in err


def test_up_with_triton_says_what_is_missing(histgen, monkeypatch, tmp_path):
    monkeypatch.setenv("HISTGEN_TRITON_HOME", str(tmp_path))
    code, _, err = histgen("up", "--inference", "triton")

    assert code == 78
    assert "error[triton-missing]" in err


def test_a_service_that_refuses_its_settings_ends_the_stack_with_its_reason(histgen, monkeypatch):
    monkeypatch.setenv("HISTGEN_DEADLINE_S", "-1")
    code, _, err = histgen("up", "--inference", "onnx")

    assert code == 78
    assert "error[service-refused]" in err
    assert "HISTGEN_DEADLINE_S" in err


def test_a_pattern_without_slides_is_refused_before_anything_is_submitted(histgen, monkeypatch, tmp_path):
    monkeypatch.setenv("HISTGEN_STORE", f"file:{tmp_path}")
    monkeypatch.setenv("HISTGEN_GATEWAY", "http://127.0.0.1:9")
    code, _, err = histgen("submit", tmp_path / "*.svs")

    assert code == 65
    assert "error[slide-none-found]" in err


def test_an_unreachable_gateway_is_reported(histgen, monkeypatch, tmp_path):
    monkeypatch.setenv("HISTGEN_STORE", f"file:{tmp_path}")
    code, _, err = histgen(
        "submit", "a.svs", "--gateway", "http://127.0.0.1:9", "--store", f"file:{tmp_path}"
    )

    assert code == 75
    assert "error[gateway-unreachable]" in err


def test_a_remote_store_is_read_without_a_local_stack(histgen, tmp_path):
    code, out, _ = histgen("status", "--store", f"file:{tmp_path / 'objects'}")

    assert code == 0
    assert out == "0 waiting · 0 in progress · 0 drafted · 0 dead letters\n"
    assert histgen("status", "a", "--store", f"file:{tmp_path / 'objects'}")[2].startswith(
        "error[slide-unknown]"
    )


def test_replay_needs_a_selection(histgen, tmp_path):
    code, _, err = histgen("replay", "--store", f"file:{tmp_path}", "--bus", "embedded:/b.db")

    assert code == 65
    assert "error[replay-unstated]" in err


def test_replay_takes_either_dead_letters_or_unfinished_slides(histgen, tmp_path):
    code, _, err = histgen("replay", "--unfinished", "--all", "--store", f"file:{tmp_path}")

    assert code == 65
    assert "error[replay-contradictory]" in err


def test_replay_reports_an_unknown_id(histgen, tmp_path):
    target = ("--store", f"file:{tmp_path / 'o'}", "--bus", f"embedded:{tmp_path / 'b.db'}")
    for options in ((), ("--dry-run",)):
        code, _, err = histgen("replay", "0" * 32, *options, *target)

        assert code == 65
        assert "error[object-missing]" in err


def test_backfill_refuses_a_rate_it_cannot_read(histgen, tmp_path):
    target = ("--store", f"file:{tmp_path / 'o'}", "--bus", f"embedded:{tmp_path / 'b.db'}")
    code, _, err = histgen("backfill", tmp_path, "--rate", "fast", *target)

    assert code == 65
    assert "error[backfill-rate]" in err


@pytest.mark.parametrize("prefix", ["", "slide.svs", "pipe"])
def test_backfill_accepts_only_folders(histgen, tmp_path, monkeypatch, prefix):
    """An empty name (of a variable that is not set) is not the folder that one happens to be in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slide.svs").write_bytes(b"slide")
    os.mkfifo(tmp_path / "pipe")
    target = ("--store", f"file:{tmp_path / 'o'}", "--bus", f"embedded:{tmp_path / 'b.db'}")
    code, out, _ = histgen("backfill", prefix, *target, "--json")

    assert (code, json.loads(out)["error"]["code"]) == (65, "backfill-prefix")


def test_a_backfill_ends_with_a_list_of_ten_files_left_out(histgen, tmp_path):
    (tmp_path / "archive").mkdir()
    for number in range(12):
        (tmp_path / "archive" / f"notes-{number:02}.txt").touch()
    target = ("--store", f"file:{tmp_path / 'o'}", "--bus", f"embedded:{tmp_path / 'b.db'}")
    code, out, _ = histgen("backfill", tmp_path / "archive", *target)

    assert code == 0
    assert "There are no slides." in out
    assert "12 left out: 12 not named like slides." in out
    assert "notes-09.txt" in out
    assert "notes-10.txt" not in out
    assert "2 more" in out
    assert "notes-11.txt" in histgen("backfill", tmp_path / "archive", "--verbose", *target)[1]
    document = json.loads(histgen("backfill", tmp_path / "archive", "--json", *target)[1])
    assert {one["why"] for one in document["left_out"]} == {"other"}
    assert len(document["left_out"]) == 12


def test_the_exit_code_shows_that_a_backfill_could_not_read_everything(histgen, monkeypatch, tmp_path):
    (tmp_path / "archive" / "closed").mkdir(parents=True)
    real = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    target = ("--store", f"file:{tmp_path / 'o'}", "--bus", f"embedded:{tmp_path / 'b.db'}")
    code, out, _ = histgen("backfill", tmp_path / "archive", *target)

    assert code == 1
    assert "1 folders without access" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_backfill_does_not_end_with_0(histgen, monkeypatch, tmp_path, number):
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}

    def interrupted(*_, **__):
        signal.raise_signal(number)
        return Tally(stopped=True)

    monkeypatch.setattr("services.gateway.backfill.backfill", interrupted)
    target = ("--store", f"file:{tmp_path / 'o'}", "--bus", f"embedded:{tmp_path / 'b.db'}")
    try:
        code, out, _ = histgen("backfill", tmp_path, "--json", *target)
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)

    assert code == 128 + number
    assert json.loads(out)["stopped"]


@pytest.mark.parametrize("service", ["gateway", "tiler", "reporter"])
def test_config_shows_what_is_in_force_and_where_it_comes_from(histgen, monkeypatch, service):
    monkeypatch.setenv("HISTGEN_BUS", "kafka://lab:9092")
    monkeypatch.setenv("HISTGEN_STORE", "file:/data")
    monkeypatch.setenv("HISTGEN_KAFKA", '{"sasl_plain_password": "hush"}')
    code, out, _ = histgen("config", "show", service, "--json")
    document = json.loads(out)

    assert code == 0
    assert document["bus"] == {"value": "kafka://lab:9092", "from": "HISTGEN_BUS"}
    assert document["grace_s"]["from"] == "default"
    assert "hush" not in out + histgen("config", "show", service)[1]


def test_export_knows_its_targets_and_writes_a_repository(histgen, model_dir, tmp_path):
    assert histgen("export", model_dir, "--target", "openvino", "--out", tmp_path)[0] == 2
    code, out, _ = histgen("export", model_dir, "--target", "local", "--out", tmp_path / "r", "--json")

    assert code == 0
    assert json.loads(out)["models"] == ["histgen", "tile_encoder"]
    assert (tmp_path / "r" / "histgen" / "config.pbtxt").is_file()


def test_a_demo_replaces_only_what_a_demo_left(histgen, tmp_path):
    (tmp_path / "stack").mkdir()
    (tmp_path / "stack" / "thesis.tex").touch()
    code, _, err = histgen("demo", "--out", tmp_path, "--count", 1)

    assert code == 78
    assert "error[demo-output]" in err
    assert (tmp_path / "stack" / "thesis.tex").exists()


def test_the_audit_log_is_shown_and_checked(histgen, tmp_path):
    store = open_store(StorageSettings(f"file:{tmp_path / 'store'}"))
    audit = Audit(store, now=lambda: datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC))
    audit.append("submitted", "lab (uid 7)", {"slide_id": "a", "event_id": "e1"})
    audit.append("replayed", "lab (uid 7)", {"slide_id": "b", "event_id": "e2"})
    at = ("--store", f"file:{tmp_path / 'store'}")

    document = "2026-05-04 03:02:01  submitted  by lab (uid 7)  event_id=e1 slide_id=a\n"
    assert histgen("audit", "show", "--slide", "a", *at) == (0, document, "")
    shown = json.loads(histgen("audit", "show", "--action", "replayed", "--json", *at)[1])
    assert [entry["what"]["slide_id"] for entry in shown["entries"]] == ["b"]

    code, out, _ = histgen("audit", "verify", *at)
    assert (code, out.splitlines()[0]) == (0, "The log is intact: 2 entries.")
    end = out.split()[-1]
    store.delete("audit/000000000002.json")
    assert histgen("audit", "verify", *at)[0] == 0
    code, out, err = histgen("audit", "verify", "--expect", end, *at)
    assert code == 1
    assert out.startswith("The log is NOT intact: 1 entry.")
    assert err == "audit/000000000002.json is missing.\n"
    faults = json.loads(histgen("audit", "verify", "--expect", end, "--json", *at)[1])["faults"]
    assert faults == [{"key": "audit/000000000002.json", "fault": "missing"}]


def test_an_expected_end_that_cannot_be_read_is_refused(histgen, tmp_path):
    code, _, err = histgen("audit", "verify", "--expect", "42", "--store", f"file:{tmp_path}")
    assert code == 65
    assert err.startswith("error[audit-end-unreadable]")
