"""A command finds its stack by its options, the folder, and the environment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from histgen_lib.client.api import post_json
from histgen_lib.client.connection import Target, connect
from histgen_lib.client.home import StackHome, StackRecord
from histgen_lib.errors import FatalError, HistgenError
from histgen_lib.secret import own_secret

REMOTE = {"HISTGEN_STORE": "s3://lab/x", "HISTGEN_BUS": "kafka://k:9092", "HISTGEN_GATEWAY": "http://g:80"}


def stopped_stack(folder: Path) -> StackHome:
    """Leave what a stack leaves that has stopped."""
    home = StackHome(folder)
    record = StackRecord(1, "http://127.0.0.1:9", "embedded:/b.db", f"file:{folder}", None, "onnx", "/inbox")
    with home.locked():
        home.write(record)
    return home


def code_of(target: Target, environment: dict[str, str]) -> str:
    with pytest.raises(HistgenError) as caught:
        connect(target, environment)
    return caught.value.code


def test_the_folder_takes_precedence_over_the_environment(tmp_path):
    stopped_stack(tmp_path)
    found = connect(Target(), {**REMOTE, "HISTGEN_HOME": str(tmp_path)})

    assert found.storage.url == f"file:{tmp_path}"
    assert found.bus.url == "embedded:/b.db"


def test_without_a_stack_here_the_environment_names_one(tmp_path):
    environment = {**REMOTE, "HISTGEN_HOME": str(tmp_path), "HISTGEN_STORE_ENDPOINT": "http://minio:9000"}
    found = connect(Target(), environment)

    assert (found.storage.url, found.storage.endpoint) == ("s3://lab/x", "http://minio:9000")
    assert (found.need_bus().url, found.need_gateway()) == ("kafka://k:9092", "http://g:80")
    assert (found.home, found.run_dir) == (None, None)


def test_command_line_options_take_precedence_over_everything(tmp_path):
    stopped_stack(tmp_path)
    found = connect(Target(store="s3://other"), {**REMOTE, "HISTGEN_HOME": str(tmp_path)})

    assert found.storage.url == "s3://other"


def test_a_folder_option_without_a_stack_does_not_fall_back_on_the_environment(tmp_path):
    assert code_of(Target(home=tmp_path), REMOTE) == "stack-not-running"


def test_no_stack_at_all_is_an_error(tmp_path):
    assert code_of(Target(), {"HISTGEN_HOME": str(tmp_path)}) == "stack-not-running"


def test_a_stopped_stack_can_be_read_but_accepts_no_slides(tmp_path):
    stopped_stack(tmp_path)
    found = connect(Target(home=tmp_path), {})

    assert found.store().head("x") is None
    assert found.run_dir is None
    with pytest.raises(HistgenError) as caught:
        found.need_gateway()
    assert caught.value.code == "stack-not-running"


def test_missing_options_of_a_remote_stack_are_named(tmp_path):
    assert code_of(Target(gateway="http://g"), {}) == "store-unstated"
    with pytest.raises(HistgenError) as caught:
        connect(Target(store="s3://lab"), {}).need_bus()
    assert caught.value.code == "bus-unstated"


def test_broker_settings_come_from_the_services_variables():
    environment = {**REMOTE, "HISTGEN_KAFKA": '{"security_protocol": "SSL"}'}

    assert connect(Target(store="s3://lab"), environment).need_bus().kafka == (("security_protocol", "SSL"),)
    assert code_of(Target(store="s3://lab"), {**REMOTE, "HISTGEN_KAFKA": "[1]"}) == "settings-invalid"


def own_file(path: Path, text: str) -> Path:
    path.touch(0o600)
    path.write_text(text)
    return path


def test_a_kafka_started_in_the_folder_is_reached_with_its_own_login(tmp_path):
    """And what lies there goes to no other broker; what the environment says is for others."""
    home = stopped_stack(tmp_path)
    home.kafka_client_path.parent.mkdir()
    settings = {"bootstrap_servers": "127.0.0.1:7", "sasl_plain_password": "hush"}
    own_file(home.kafka_client_path, json.dumps(settings))
    others = {"HISTGEN_KAFKA": '{"sasl_plain_password": "lab"}'}

    def login(bus: str) -> dict[str, object]:
        return dict(connect(Target(home=tmp_path, bus=bus), others).need_bus().kafka)

    assert login("kafka://127.0.0.1:7") == {"sasl_plain_password": "hush"}
    assert login("kafka://127.0.0.1:8") == {"sasl_plain_password": "lab"}


def test_a_settings_file_takes_precedence_over_the_variable(tmp_path):
    file = own_file(tmp_path / "kafka.json", '{"sasl_plain_password": "hush"}')
    kafka = '{"sasl_plain_password": "lab", "security_protocol": "SASL_SSL"}'
    environment = {**REMOTE, "HISTGEN_KAFKA": kafka, "HISTGEN_KAFKA_FILE": str(file)}

    assert dict(connect(Target(store="s3://lab"), environment).need_bus().kafka) == {
        "sasl_plain_password": "hush",
        "security_protocol": "SASL_SSL",
    }


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": [1]}', '{"a": "ü"}', '{"a": "' + "x" * 5000 + '"}'])
def test_an_invalid_kafka_settings_file_is_reported_without_its_content(tmp_path, text):
    environment = {**REMOTE, "HISTGEN_KAFKA_FILE": str(own_file(tmp_path / "kafka.json", text))}
    with pytest.raises(HistgenError) as caught:
        connect(Target(store="s3://lab"), environment)
    assert caught.value.code == "settings-invalid"
    assert str(tmp_path / "kafka.json") in caught.value.message
    assert "xxx" not in str(caught.value)


def test_a_file_of_kafka_settings_that_others_may_read_is_refused(tmp_path):
    file = own_file(tmp_path / "kafka.json", "{}")
    file.chmod(0o644)
    assert code_of(Target(store="s3://lab"), {**REMOTE, "HISTGEN_KAFKA_FILE": str(file)}) == "secret-exposed"


def test_the_token_of_a_local_stack_is_found_in_its_folder(tmp_path):
    token = own_secret(stopped_stack(tmp_path).token_path)

    assert connect(Target(home=tmp_path), {"HISTGEN_TOKEN_FILE": "/elsewhere"}).token() == token


def test_the_token_of_a_remote_gateway_is_in_the_named_file(tmp_path):
    file = own_file(tmp_path / "gateway.token", "abc\n")
    found = connect(Target(), {**REMOTE, "HISTGEN_HOME": str(tmp_path), "HISTGEN_TOKEN_FILE": str(file)})

    assert found.token() == "abc"


@pytest.mark.parametrize(
    "gateway", ["http://gw:80", "http://127.0.0.1.evil.example", "http://[", "http://192.0.2.1"]
)
def test_the_token_of_a_local_stack_is_sent_to_no_other_machine(tmp_path, gateway):
    own_secret(stopped_stack(tmp_path).token_path)
    environment = {"HISTGEN_HOME": str(tmp_path), "HISTGEN_STORE": "s3://lab"}

    assert connect(Target(gateway=gateway), environment).token() is None
    assert connect(Target(gateway=gateway, home=tmp_path), environment).token() is None


@pytest.mark.parametrize(
    "gateway", ["http://127.0.0.1:8080", "http://127.1.2.3", "http://localhost", "http://[::1]:80/"]
)
def test_a_loopback_gateway_without_a_stack_gets_the_accounts_token(tmp_path, gateway):
    token = own_secret(StackHome(tmp_path).token_path)
    environment = {"HISTGEN_HOME": str(tmp_path), "HISTGEN_STORE": "s3://lab"}

    assert connect(Target(gateway=gateway), environment).token() == token


@pytest.mark.parametrize("text", ['{\n  "sre": {"token": "hush"}\n}\n', "two words", "hush\x07", "schlüssel"])
def test_a_file_that_holds_something_else_than_a_token_is_refused_and_not_repeated(tmp_path, text):
    file = tmp_path / "token"
    file.touch(0o600)
    file.write_text(text)
    with pytest.raises(HistgenError) as caught:
        connect(Target(), {**REMOTE, "HISTGEN_HOME": str(tmp_path), "HISTGEN_TOKEN_FILE": str(file)}).token()
    assert (caught.value.code, "hush" in str(caught.value)) == ("token-unreadable", False)


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_authorities_that_cannot_be_used_are_not_the_gateways_fault(tmp_path, text):
    file = tmp_path / "ca.pem"
    if text:
        file.write_text(text)
    with pytest.raises(FatalError) as caught:
        post_json("https://127.0.0.1:1/slides", {}, None, ca_file=file)
    assert (caught.value.code, str(file) in caught.value.message) == ("authorities-unusable", True)


def test_an_unreadable_token_is_reported_with_its_file(tmp_path):
    environment = {**REMOTE, "HISTGEN_HOME": str(tmp_path), "HISTGEN_TOKEN_FILE": str(tmp_path / "none")}
    with pytest.raises(HistgenError) as caught:
        connect(Target(), environment).token()
    assert caught.value.code == "token-unreadable"
    assert str(tmp_path / "none") in caught.value.message
