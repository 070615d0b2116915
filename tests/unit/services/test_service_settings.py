"""Settings of the services: environment over file over defaults; complaints name names, not values."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from histgen_lib.access.places import Roots
from histgen_lib.errors import FatalError
from services.reporter.app import ReporterSettings
from services.run import worker_spec
from services.settings import ServiceSettings
from services.table import service_named
from services.tiler.app import TilerSettings
from services.wiring import (
    bus_settings,
    http_address,
    slide_files,
    slide_roots,
    storage_settings,
    token_file,
    warn_without_roots,
)

NEEDED = {"HISTGEN_BUS": "embedded:/lab/bus.db", "HISTGEN_STORE": "file:/lab/store"}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("HISTGEN_")]:
        monkeypatch.delenv(name)
    for name, value in NEEDED.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def config(monkeypatch, tmp_path):
    """Write the settings file."""

    def write(text: str) -> Path:
        path = tmp_path / "histgen.yaml"
        path.write_text(text)
        monkeypatch.setenv("HISTGEN_CONFIG", str(path))
        return path

    return write


def complaint(cls=ServiceSettings) -> str:
    with pytest.raises(FatalError) as caught:
        cls.load()
    assert caught.value.code == "settings-invalid"
    assert caught.value.hint
    return str(caught.value)


def test_the_environment_wins_over_the_file_and_the_file_over_the_defaults(monkeypatch, config):
    path = config("port: 7001\nmax_attempts: 9\ngrace_s: 3\n")
    monkeypatch.setenv("HISTGEN_PORT", "7002")
    settings = ServiceSettings.load(grace_s=4.0)
    origins = settings.origins()

    assert (settings.port, settings.max_attempts, settings.grace_s, settings.threads) == (7002, 9, 4.0, None)
    assert origins["port"] == "HISTGEN_PORT"
    assert origins["max_attempts"] == str(path)
    assert origins["grace_s"] == "argument"
    assert origins["threads"] == "default"
    assert set(origins) == set(ServiceSettings.model_fields)


def test_one_file_serves_all_services(config):
    sections = "tiler: {in_flight: 4, max_attempts: 3}\nreporter: {beam_size: 2}\ngateway: {watch: /x}\n"
    config(f"max_attempts: 2\n{sections}")

    assert (TilerSettings.load().in_flight, TilerSettings.load().max_attempts) == (4, 3)
    assert (ReporterSettings.load().beam_size, ReporterSettings.load().max_attempts) == (2, 2)


@pytest.mark.parametrize("text", ["watches: /x\n", "tiler: {beam_size: 3}\n"])
def test_an_unknown_name_in_the_file_is_refused(config, text):
    config(text)

    assert "is not a setting of this service" in complaint(TilerSettings)


@pytest.mark.parametrize("text", ["[1, 2]", "{", "tiler: 3", "\x00"])
def test_a_file_that_does_not_hold_settings_is_refused(config, text):
    config(text)

    assert "HISTGEN_CONFIG must name" in complaint()


def test_a_missing_file_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("HISTGEN_CONFIG", str(tmp_path / "none.yaml"))

    assert "HISTGEN_CONFIG must name a readable YAML file" in complaint()


@pytest.mark.parametrize(
    ("name", "value", "wish"),
    [
        ("HISTGEN_BUS", "redis://h", 'HISTGEN_BUS must be "embedded:'),
        ("HISTGEN_STORE", "/a/folder", 'HISTGEN_STORE must be "file:/folder"'),
        ("HISTGEN_INFERENCE", "triton://h", 'HISTGEN_INFERENCE must be "onnx", "triton://host:port" or'),
        ("HISTGEN_STORE_ENDPOINT", "minio:9000", 'HISTGEN_STORE_ENDPOINT must be "http://'),
        ("HISTGEN_PORT", "77777", "HISTGEN_PORT must be less than or equal to 65535"),
        ("HISTGEN_DEADLINE_S", "s3cret", "HISTGEN_DEADLINE_S must be a valid number"),
        ("HISTGEN_KAFKA", "{s3cret", "HISTGEN_KAFKA must be JSON"),
        ("HISTGEN_LOG_LEVEL", "s3cret", "HISTGEN_LOG_LEVEL must be 'debug'"),
    ],
)
def test_a_complaint_names_the_variable_and_what_it_must_be(monkeypatch, name, value, wish):
    monkeypatch.setenv(name, value)

    assert wish in complaint()
    assert "s3cret" not in complaint()


def test_all_complaints_come_at_once(monkeypatch):
    monkeypatch.delenv("HISTGEN_BUS")
    monkeypatch.setenv("HISTGEN_MAX_ATTEMPTS", "0")
    message = complaint()

    assert "HISTGEN_BUS is missing" in message
    assert "HISTGEN_MAX_ATTEMPTS must be greater than or equal to 1" in message


def test_secrets_show_nowhere(monkeypatch):
    monkeypatch.setenv("HISTGEN_KAFKA", '{"sasl_plain_password": "s3cret", "security_protocol": "SASL_SSL"}')
    monkeypatch.setenv("HISTGEN_STORE_ENDPOINT", "http://me:s3cret@minio:9000/x")
    settings = ServiceSettings.load()

    assert "s3cret" not in repr(settings) + str(settings) + str(settings.shown())
    assert settings.shown()["kafka"]["security_protocol"] == "SASL_SSL"
    assert settings.shown()["store_endpoint"] == "http://********@minio:9000/x"
    assert dict(bus_settings(settings).kafka)["sasl_plain_password"] == "s3cret"


@pytest.mark.parametrize("name", ["sasl_plain_password", "ssl_password", "sasl_oauth_token"])
def test_a_secret_that_is_a_number_is_one_too(monkeypatch, name):
    monkeypatch.setenv(
        "HISTGEN_KAFKA", json.dumps({name: 48151623, "retries": 7, "ssl_check_hostname": True})
    )
    settings = ServiceSettings.load()

    assert "48151623" not in repr(settings) + str(settings.in_force())
    assert (settings.shown()["kafka"]["retries"], settings.shown()["kafka"]["ssl_check_hostname"]) == (
        7,
        True,
    )


def test_kafkas_password_may_be_in_a_file(monkeypatch, tmp_path):
    file = tmp_path / "kafka.json"
    file.touch(0o600)
    file.write_text('{"bootstrap_servers": "127.0.0.1:9", "sasl_plain_password": "s3cret"}')
    monkeypatch.setenv("HISTGEN_KAFKA_FILE", str(file))
    monkeypatch.setenv("HISTGEN_KAFKA", '{"security_protocol": "SASL_SSL"}')
    settings = ServiceSettings.load()

    assert bus_settings(settings).kafka == (
        ("sasl_plain_password", "s3cret"),
        ("security_protocol", "SASL_SSL"),
    )
    assert "s3cret" not in repr(settings) + str(settings.shown()) + repr(bus_settings(settings))
    assert settings.shown()["kafka_file"] == str(file)


def test_an_empty_variable_means_not_set(monkeypatch):
    for name in ("THREADS", "STORE_ENDPOINT", "STORE_REGION", "RUN_DIR", "SCRATCH"):
        monkeypatch.setenv(f"HISTGEN_{name}", "")
    settings = ServiceSettings.load()

    assert (settings.threads, settings.store_endpoint, settings.run_dir, settings.scratch) == (None,) * 4


@pytest.mark.parametrize("cls", [TilerSettings, ReporterSettings])
def test_workers_take_slides_from_the_same_places_as_the_gateway(monkeypatch, cls, tmp_path):
    monkeypatch.setenv("HISTGEN_ROOTS", "/archive, s3://lab/scans")
    monkeypatch.setenv("HISTGEN_WATCH", str(tmp_path))

    assert slide_roots(cls.load()) == Roots((tmp_path.resolve(), Path("/archive")), ("lab/scans/",))


@pytest.mark.parametrize(("roots", "warnings"), [("", 1), ("/scans", 0)])
def test_a_service_without_roots_warns_at_its_start_that_it_takes_no_slide(monkeypatch, roots, warnings):
    logged: list[str] = []
    monkeypatch.setattr("services.wiring._log", SimpleNamespace(warning=logged.append))
    monkeypatch.setenv("HISTGEN_ROOTS", roots)
    warn_without_roots(ServiceSettings.load())

    assert len(logged) == warnings


def test_a_root_that_is_not_a_place_is_refused(monkeypatch):
    monkeypatch.setenv("HISTGEN_ROOTS", "http://host/scans")
    with pytest.raises(FatalError) as caught:
        slide_roots(ServiceSettings.load())
    assert caught.value.code == "settings-invalid"


def test_settings_travel_to_the_child_process():
    settings = TilerSettings.load(in_flight=2)

    assert pickle.loads(pickle.dumps(settings)) == settings


def test_settings_reach_the_parts_of_a_worker(monkeypatch):
    monkeypatch.setenv("HISTGEN_STORE", "s3://lab/histgen")
    monkeypatch.setenv("HISTGEN_STORE_ENDPOINT", "http://minio:9000")
    settings = ServiceSettings.load(port=7003)
    spec = worker_spec(service_named("tiler"), settings)

    assert (spec.name, spec.groups, spec.address.port) == ("tiler", {"slide.scanned": "histgen-tiler"}, 7003)
    assert storage_settings(settings).endpoint == "http://minio:9000"
    assert bus_settings(settings).url == "embedded:/lab/bus.db"


@pytest.mark.parametrize(
    "index", ["s3://lab/histgen", "s3://lab/histgen/", "s3://lab/histgen/cases", "s3://lab", "s3://lab/"]
)
def test_a_case_index_in_the_store_and_a_store_in_the_case_index_are_refused(monkeypatch, index):
    monkeypatch.setenv("HISTGEN_STORE", "s3://lab/histgen")
    settings = ServiceSettings.load()
    with pytest.raises(FatalError, match="HISTGEN_CASE_INDEX"):
        storage_settings(settings, index)
    for beside in ("s3://lab/histgen-cases", "s3://cases/histgen", "s3://lab/cases"):
        assert storage_settings(settings, beside).url == beside


@pytest.mark.parametrize("service", ["tiler", "reporter"])
def test_a_workers_parent_process_loads_no_model_and_no_pixels(service):
    heavy = ["onnxruntime", "cv2", "openslide", "pyarrow", "tritonclient", "boto3", "kafka", "torch", "PIL"]
    code = f"""
import sys
import services.{service}.__main__
from services.run import worker_spec
from services.settings import settings_class
from services.table import service_named
row = service_named("{service}")
worker_spec(row, settings_class(row).load())
print([name for name in {heavy} if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert run.stdout.strip() == "[]"


def test_without_a_token_file_setting_the_accounts_home_holds_the_token(monkeypatch, tmp_path):
    monkeypatch.setenv("HISTGEN_HOME", str(tmp_path))
    monkeypatch.setenv("HISTGEN_TOKEN_FILE", "")
    assert token_file(ServiceSettings.load()) == tmp_path / "secrets" / "token"

    monkeypatch.setenv("HISTGEN_TOKEN_FILE", "/etc/histgen/token")
    assert token_file(ServiceSettings.load()) == Path("/etc/histgen/token")


def test_an_account_without_a_home_is_asked_for_a_token_file(monkeypatch):
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", none)
    for name in ("HISTGEN_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(FatalError) as caught:
        token_file(ServiceSettings.load())
    assert (caught.value.code, "HISTGEN_TOKEN_FILE" in caught.value.message) == ("settings-invalid", True)


@pytest.mark.parametrize("kind", ["open", "link", "file"])
def test_a_folder_for_copies_that_may_be_someone_elses_is_not_used(monkeypatch, tmp_path, kind):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    found = tmp_path / f"histgen-scratch-{os.getuid()}"
    (tmp_path / "theirs").mkdir(mode=0o700)
    {"open": lambda: (found.mkdir(), found.chmod(0o777)), "file": found.touch}.get(
        kind, lambda: found.symlink_to(tmp_path / "theirs")
    )()
    with pytest.raises(FatalError) as caught:
        slide_files(ServiceSettings.load())._make_scratch()
    assert caught.value.code == "scratch-unwritable"


def test_the_folder_for_copies_is_private_to_this_account(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    for _ in range(2):
        slide_files(ServiceSettings.load())._make_scratch()
    (folder,) = tmp_path.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_limits_reach_the_worker_and_the_access_to_slides(monkeypatch):
    for name, value in (
        ("MEMORY_BYTES", 1 << 30),
        ("SLIDE_BYTES", 1 << 21),
        ("SLIDE_OPEN_S", 7),
        ("SLIDE_TILES", 9),
    ):
        monkeypatch.setenv(f"HISTGEN_{name}", str(value))
    settings = TilerSettings.load()
    spec = worker_spec(service_named("tiler"), settings)
    assert (spec.memory_bytes, spec.opening_s, settings.slide_tiles) == (1 << 30, 7.0, 9)
    assert slide_files(settings).most_bytes == 1 << 21


def test_a_jobs_default_memory_limit_fits_the_machine():
    spec = worker_spec(service_named("reporter"), ReporterSettings.load())
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < spec.memory_bytes <= min(8 << 30, 0.75 * machine)
    assert spec.opening_s == float("inf")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"HTTP_OPEN": "probes,status"}, "HISTGEN_HTTP_OPEN"),
        ({"TLS_CERT": "/tls.crt"}, "HISTGEN_TLS_KEY"),
        ({"TLS_KEY": "/tls.key"}, "HISTGEN_TLS_CERT"),
        ({"OIDC_ISSUER": "https://issuer.lab"}, "HISTGEN_OIDC_AUDIENCE"),
        ({"OIDC_ISSUER": "http://issuer.lab", "OIDC_AUDIENCE": "histgen"}, "HISTGEN_OIDC_ISSUER"),
        ({"OIDC_ISSUER": "http://127.0.0.1.evil.example", "OIDC_AUDIENCE": "histgen"}, "HISTGEN_OIDC_ISSUER"),
        ({"OIDC_ISSUER": "https://user:pw@issuer.lab", "OIDC_AUDIENCE": "histgen"}, "HISTGEN_OIDC_ISSUER"),
        ({"OIDC_SCOPES": '{"sre": "everything"}'}, "HISTGEN_OIDC_SCOPES"),
        ({"HTTP_RATE": "-1"}, "HISTGEN_HTTP_RATE"),
    ],
)
def test_a_door_that_would_not_be_what_was_meant_is_refused(monkeypatch, settings, named):
    for name, value in settings.items():
        monkeypatch.setenv(f"HISTGEN_{name}", value)
    with pytest.raises(FatalError) as caught:
        http_address(ServiceSettings.load())
    assert caught.value.code == "settings-invalid"
    assert named in caught.value.message
    assert "pw@" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "expected"), [(None, {"probes", "metrics"}), ("", set()), ("probes", {"probes"})]
)
def test_what_is_open_without_a_token_is_a_setting(monkeypatch, value, expected):
    if value is not None:
        monkeypatch.setenv("HISTGEN_HTTP_OPEN", value)
    assert http_address(ServiceSettings.load()).door.open == expected


def test_the_settings_of_the_door_reach_it(monkeypatch):
    for name, value in (
        ("OIDC_ISSUER", "https://issuer.lab/realms/lab"),
        ("OIDC_AUDIENCE", "histgen"),
        ("OIDC_SCOPES", '{"sre": "operate"}'),
        ("TLS_CERT", "/tls.crt"),
        ("TLS_KEY", "/tls.key"),
        ("TOKENS_FILE", "/tokens.json"),
        ("HTTP_RATE", "7"),
        ("CA_FILE", ""),
    ):
        monkeypatch.setenv(f"HISTGEN_{name}", value)
    found = http_address(ServiceSettings.load())
    assert found.issuer is not None
    assert (found.issuer.url, found.issuer.scopes) == ("https://issuer.lab/realms/lab", {"sre": "operate"})
    assert (found.tls.key, found.tokens_file, found.door.rate) == (Path("/tls.key"), Path("/tokens.json"), 7)
    assert found.issuer.ca_file is None
