"""`histgen config show` prints every setting, whether all are right or none is set, and asks services."""

from __future__ import annotations

import json
import os
import re
import socket
from collections import Counter
from pathlib import Path

import pytest
from config_page import config_page

from histgen_lib.cli.settings_page import settings_page
from histgen_lib.client.home import StackHome
from services.inventory import settings_here
from services.settings import ServiceSettings, settings_class
from services.table import SERVICES

ROOT = Path(__file__).resolve().parents[3]
CLASSES = {row.name: settings_class(row) for row in SERVICES}
NAMES = list(CLASSES)
SHARED = ServiceSettings.model_fields
EVERY = Counter(list(SHARED))
for _cls in CLASSES.values():
    EVERY.update(name for name in _cls.model_fields if name not in SHARED)
"""Each setting, and how many services have it of their own."""


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    """Leave no setting in the environment, and no stack in the home folder."""
    for name in [name for name in os.environ if name.startswith("HISTGEN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HISTGEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "300")


def line(out: str, setting: str) -> str:
    (found,) = re.findall(rf"^{setting} .*$", out, re.MULTILINE)
    return found


def test_without_any_setting_all_are_shown_with_their_defaults_and_what_is_required(histgen):
    code, out, err = histgen("config", "show")

    assert (code, err) == (0, "")
    assert set(EVERY) <= set(re.findall(r"^([a-z_]+) .+ .+ .+$", out, re.MULTILINE))
    required = re.findall(r"^(\w+) .*required, not set", out, re.MULTILINE)
    assert required == ["bus", "store", "case_index", "case_index"], "of the librarian and of the search"
    assert re.search(r"grace_s +20\.0 +default +seconds that a running job", out)
    assert [name for name in ("All services", *NAMES) if f"\n{name}\n" in out] == ["All services", *NAMES]


def test_a_setting_that_one_service_has_of_its_own_is_shown_with_that_service(histgen, monkeypatch, tmp_path):
    (tmp_path / "lab.yaml").write_text("port: 7\ntiler: {port: 8}\n")
    monkeypatch.setenv("HISTGEN_CONFIG", str(tmp_path / "lab.yaml"))
    _, out, _ = histgen("config", "show")

    ports = re.findall(r"^port +(\d)", out, re.MULTILINE)
    assert dict(zip(NAMES, ports, strict=True)) == dict.fromkeys(NAMES, "7") | {"tiler": "8"}


@pytest.mark.parametrize("name", NAMES)
def test_where_all_is_right_it_is_what_the_service_loads(name, monkeypatch, tmp_path):
    (tmp_path / "lab.yaml").write_text("max_attempts: 2\ntiler: {in_flight: 4}\n")
    for variable, value in {
        "HISTGEN_CONFIG": str(tmp_path / "lab.yaml"),
        "HISTGEN_BUS": "kafka://lab:9092",
        "HISTGEN_STORE": "s3://lab/histgen",
        "HISTGEN_CASE_INDEX": "s3://lab/cases",
        "HISTGEN_STORE_ENDPOINT": "http://user:hush@minio:9000",
        "HISTGEN_KAFKA": '{"sasl_plain_password": "hush", "security_protocol": "SSL"}',
        "HISTGEN_ROOTS": "/a,s3://b",
        "HISTGEN_THREADS": "",
    }.items():
        monkeypatch.setenv(variable, value)
    found, faults = settings_here(CLASSES[name])
    loaded = CLASSES[name].load()

    assert faults == []
    assert {one.name: one.value for one in found} == loaded.shown()
    assert {one.name: one.origin for one in found} == loaded.origins()
    assert "hush" not in repr(found)


def test_what_is_wrong_is_named_and_the_rest_is_shown(histgen, monkeypatch, tmp_path):
    (tmp_path / "lab.yaml").write_text("grace: 3\nport: 7001\ngrace_s: -1\n")
    monkeypatch.setenv("HISTGEN_CONFIG", str(tmp_path / "lab.yaml"))
    monkeypatch.setenv("HISTGEN_KAFKA", "{hush")
    monkeypatch.setenv("HISTGEN_STORE", "ftp://hush")
    code, out, err = histgen("config", "show", "reporter")
    document = json.loads(histgen("config", "show", "reporter", "--json")[1])

    assert code == 78
    assert {name for name in document if "cannot be used" in line(out, name)} == {"kafka", "store", "grace_s"}
    assert re.search(r"port +7001", out)
    assert "HISTGEN_KAFKA must be JSON" in err
    assert "HISTGEN_GRACE_S must be greater than or equal to 0" in err
    assert "'grace' in the settings file is not a setting of this service" in err
    assert "hush" not in out + err + json.dumps(document)
    assert document["port"] == {"value": 7001, "from": str(tmp_path / "lab.yaml")}
    assert document["bus"] == {"value": None, "from": None, "missing": True}
    assert document["store"]["wrong"].startswith('HISTGEN_STORE must be "file:/folder"')


@pytest.mark.parametrize("text", [None, "- a list", "{"])
def test_a_settings_file_that_cannot_be_read_hides_nothing_else(histgen, monkeypatch, tmp_path, text):
    if text:
        (tmp_path / "lab.yaml").write_text(text)
    monkeypatch.setenv("HISTGEN_CONFIG", str(tmp_path / "lab.yaml"))
    monkeypatch.setenv("HISTGEN_PORT", "7002")
    code, out, err = histgen("config", "show")

    assert code == 78
    assert "HISTGEN_CONFIG must name a" in err
    assert re.search(r"port +7002 +HISTGEN_PORT", out)


def test_json_of_all_services_has_each_service_whole(histgen):
    code, out, _ = histgen("config", "show", "--json")
    document = json.loads(out)

    assert code == 0
    assert {name: set(found) for name, found in document.items()} == {
        name: set(cls.model_fields) for name, cls in CLASSES.items()
    }
    assert document["tiler"] == json.loads(histgen("config", "show", "tiler", "--json")[1])
    assert document["tiler"]["in_flight"] == {"value": None, "from": "default"}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("HTTP_OPEN", "everything"),
        ("TLS_CERT", "/cert.pem"),
        ("OIDC_ISSUER", "https://id.lab"),
        ("ROOTS", "ftp://lab"),
        ("RETENTION", "soon"),
        ("KAFKA_FILE", "/none"),
    ],
)
def test_what_a_service_would_not_start_with_is_wrong_here_too(histgen, monkeypatch, setting, value):
    monkeypatch.setenv("HISTGEN_BUS", "kafka://lab:9092")
    monkeypatch.setenv("HISTGEN_STORE", "s3://lab/histgen")
    assert histgen("config", "show", "gateway")[0] == 0
    monkeypatch.setenv(f"HISTGEN_{setting}", value)
    code, out, err = histgen("config", "show", "gateway")

    assert code == 78
    assert setting.lower() in out
    assert err.strip()


def test_an_address_that_cannot_be_read_shows_no_login(histgen, monkeypatch):
    monkeypatch.setenv("HISTGEN_TRACES", "http://[me:hush@collector")
    assert "hush" not in "".join(map(str, histgen("config", "show")))


FORCE = {"port": {"value": 8080, "from": "HISTGEN_PORT"}, "store": {"value": "s3://lab", "from": "lab.yaml"}}


def test_a_service_elsewhere_is_asked_with_its_token(histgen, monkeypatch, tmp_path):
    secret = tmp_path / "token"
    secret.write_text("its-token")
    secret.chmod(0o600)
    monkeypatch.setenv("HISTGEN_TOKEN_FILE", str(secret))
    monkeypatch.setenv("HISTGEN_STORE", "file:/here")
    with config_page(FORCE, "its-token") as url:
        code, out, _ = histgen("config", "show", "gateway", "--url", url)
        document = json.loads(histgen("config", "show", "--url", url, "--json")[1])

    assert code == 0
    assert re.search(r"^store +s3://lab +lab\.yaml +file:/here", out, re.MULTILINE), "and what differs here"
    assert re.search(r"^port +8080 +HISTGEN_PORT +0\s", out, re.MULTILINE)
    assert document == FORCE


def test_a_refused_token_is_reported_in_the_services_words(histgen):
    with config_page(FORCE, "its-token") as url:
        code, _, err = histgen("config", "show", "--url", url)

    assert (code, "error[token-missing]" in err) == (78, True)


def test_a_server_without_that_page_is_reported(histgen):
    with config_page(None, "") as url:
        code, _, err = histgen("config", "show", "--url", url)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"

    assert (code, "error[config-untold]" in err) == (78, True)
    assert "error[gateway-unreachable]" in histgen("config", "show", "--url", nobody)[2]


def test_the_running_services_of_this_machine_are_asked(histgen, tmp_path):
    home = StackHome(tmp_path / "home")
    with home.locked(), config_page(FORCE, "its-token") as url:
        home.token_path.parent.mkdir(mode=0o700)
        home.token_path.write_text("its-token")
        home.token_path.chmod(0o600)
        record = {"name": "tiler", "pid": os.getpid(), "url": url, "token_file": str(home.token_path)}
        (home.run_dir / "tiler-1.json").write_text(json.dumps(record))
        code, out, err = histgen("config", "show", "--running")
        document = json.loads(histgen("config", "show", "tiler", "--running", "--json")[1])
        others = histgen("config", "show", "gateway", "--running")

    assert (code, f"tiler, process {os.getpid()}, {url}" in out) == (0, True), err
    assert document == {
        "services": [{"name": "tiler", "pid": os.getpid(), "url": url, "settings": FORCE}],
    }
    assert "error[stack-not-running]" in others[2]


def test_a_service_that_does_not_tell_hides_nothing_of_the_others(histgen, tmp_path):
    home = StackHome(tmp_path / "home")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with home.locked(), config_page(FORCE, "its-token") as url:
        home.token_path.parent.mkdir(mode=0o700)
        home.token_path.write_text("its-token")
        home.token_path.chmod(0o600)
        for name, at in (("reporter", nobody), ("tiler", url)):
            record = {"name": name, "pid": os.getpid(), "url": at, "token_file": str(home.token_path)}
            (home.run_dir / f"{name}-1.json").write_text(json.dumps(record))
        code, out, err = histgen("config", "show", "--running")
        document = json.loads(histgen("config", "show", "--running", "--json")[1])

    assert (code, f"tiler, process {os.getpid()}, {url}" in out) == (75, True)
    assert f"The service at {nobody}/config does not answer" in err
    assert [one["name"] for one in document["services"]] == ["tiler"]
    assert [one["code"] for one in document["errors"]] == ["gateway-unreachable"]


def test_a_url_and_the_running_stack_are_not_asked_together(histgen):
    assert "error[config-contradictory]" in histgen("config", "show", "--running", "--url", "http://a:1")[2]


def test_the_page_of_settings_is_that_of_the_code(histgen):
    assert (ROOT / "docs" / "settings.md").read_text() == settings_page(), "make settings writes it"
    assert histgen("config", "docs")[1] == settings_page()


def test_the_page_of_settings_has_a_row_for_each():
    rows = re.findall(r"^\| `(HISTGEN_\w+)` \| .+ \| .+ \| .+ \|$", settings_page(), re.MULTILINE)
    assert Counter(rows) == {f"HISTGEN_{name.upper()}": count for name, count in EVERY.items()}
