"""What a running stack answers on day two: which slide a copy is, what way a slide took, what is set."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import tiny_model
from cli_runs import histgen
from docs_blocks import blocks, commands
from running_stack import RunningStack, stack_up
from servers.s3_servers import ACCESS_KEY, SECRET_KEY, S3Server
from waiting import until

MINUTES_S = 300.0
BUCKET = "copies"


@pytest.fixture(scope="module")
def bucket(_moto: S3Server) -> dict[str, str]:
    _moto.resume()
    _moto.start()
    client = boto3.client(
        "s3", endpoint_url=_moto.endpoint, region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY,
    )  # fmt: skip
    client.create_bucket(Bucket=BUCKET)
    return {
        "AWS_ENDPOINT_URL": _moto.endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@pytest.fixture(scope="module")
def stack(bucket, tmp_path_factory, model_dir) -> Iterator[RunningStack]:
    home = tmp_path_factory.mktemp("copies") / "home"
    allowed = ("--allow", tmp_path_factory.getbasetemp(), "--allow", f"s3://{BUCKET}")
    environment = {"HISTGEN_SETTLE_S": "0.3", "HISTGEN_LOOK_S": "0.2", **bucket}
    with stack_up(home, "--inference", "onnx", "--model", model_dir, *allowed, env=environment) as running:
        yield running


@pytest.fixture(scope="module")
def original(stack, bucket, tmp_path_factory) -> str:
    """Submit a slide and, before it is drafted, a copy; then copies in the watched folder and in a bucket."""
    folder = tmp_path_factory.mktemp("scans")
    slide = tiny_model.write_slide(folder / "original.tif", seed=31)
    early = shutil.copy(slide, folder / "early.tif")
    assert [one["status"] for one in stack.json("submit", slide, early)["slides"]] == [
        "accepted",
        "duplicate",
    ]
    until(lambda: shown(stack, "original")["slide"][0]["state"] == "drafted", MINUTES_S, "its draft")
    shutil.copy(slide, stack.home / "inbox" / "watched.part")
    (stack.home / "inbox" / "watched.part").rename(stack.home / "inbox" / "watched.tif")
    client = boto3.client("s3", **{
        "endpoint_url": bucket["AWS_ENDPOINT_URL"], "region_name": "us-east-1",
        "aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY,
    })  # fmt: skip
    client.upload_file(str(slide), BUCKET, "2026/stored.tif")
    assert stack("submit", f"s3://{BUCKET}/2026/stored.tif").code == 0
    until(lambda: stack("status", "watched").code == 0, MINUTES_S, "the copy in the watched folder")
    return "original"


COPIES = ("early", "watched", "stored")


def shown(stack: RunningStack, name: str) -> dict:
    return json.loads(stack("status", name, "--json").out)


def remote(stack: RunningStack, *arguments: object) -> str:
    """Ask the store alone, as another machine does."""
    done = histgen(*arguments, "--store", f"file:{stack.home / 'objects'}")
    assert done.code == 0, done.err
    return done.out


@pytest.mark.parametrize("copy", COPIES)
def test_by_its_name_a_copy_says_of_which_slide_it_is_one(stack, original, copy):
    for text, document in (
        (stack("status", copy).out, shown(stack, copy)),
        (remote(stack, "status", copy), json.loads(remote(stack, "status", copy, "--json"))),
    ):
        assert f"{copy} is a copy of original: same bytes, same slide." in text
        assert "original: drafted" in text
        assert document["copy_of"] == ["original"]
        (state,) = document["slide"]
        assert (state["slide_id"], state["state"]) == ("original", "drafted")
        assert set(state["copies"]) == set(COPIES)


def test_the_slide_itself_and_every_list_name_its_copies(stack, original):
    def named(slides: list[dict]) -> set[str]:
        (found,) = [set(one["copies"]) for one in slides if one["slide_id"] == "original"]
        return found

    until(lambda: set(COPIES) <= named(stack.json("status")["slides"]), MINUTES_S, "the index has the copies")
    documents = {
        "slide": shown(stack, "original")["slide"],
        "remote slide": json.loads(remote(stack, "status", "original", "--json"))["slide"],
        "list": stack.json("status")["slides"],
        "remote list": json.loads(remote(stack, "status", "--json"))["slides"],
        "watch": stack.json("watch")["slides"],
        "remote watch": json.loads(remote(stack, "watch", "--json"))["slides"],
    }
    for where, slides in documents.items():
        assert named(slides) == set(COPIES), where
    for text in (stack("status").out, remote(stack, "status")):
        row = text[text.index("original (copies:") :].split("drafted")[0]
        assert all(copy in row for copy in COPIES), "in the row of the slide"
    assert not [one for one in documents["list"] if one["slide_id"] in COPIES], "none is a slide of its own"


def test_a_copy_of_a_slide_that_was_given_up_says_so(stack, tmp_path):
    slide = tiny_model.write_slide(tmp_path / "unscaled.tif", mpp=None, seed=32)
    assert stack("submit", slide, "--wait").code == 65
    again = stack("submit", shutil.copy(slide, tmp_path / "unscaled-copy.tif"), "--wait")
    text, document = stack("status", "unscaled-copy").out, shown(stack, "unscaled-copy")

    assert (again.code, "slide-mpp-unknown" in again.output) == (65, True)
    assert "unscaled-copy is a copy of unscaled" in text
    assert "slide-mpp-unknown" in text
    assert (document["copy_of"], document["slide"][0]["state"]) == (["unscaled"], "dead-letter")
    assert "unscaled-copy" in remote(stack, "status", "--state", "dead-letter")


def test_the_docs_command_prints_one_slides_way_through_all_services(stack, original):
    """Line by line, from its announcement to its draft, and nothing of other slides."""
    (command,) = [
        line
        for block in blocks()
        if block.page == "docs/operations.md" and block.kind == "sh"
        for line in commands(block.text)
        if line.startswith("grep")
    ]
    command = command.replace("~/.local/share/histgen", str(stack.home)).replace("CMU-1", original)
    environment = {**os.environ, "HISTGEN_HOME": str(stack.home)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    told = [(line["service"], line["event"]) for line in lines]

    assert {line["slide_id"] for line in lines} == {original}
    assert {line["trace_id"] for line in lines} == {shown(stack, original)["slide"][0]["trace_id"]}
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    way = [
        ("gateway", "Announced."),
        ("tiler", "The record is finished."),
        ("reporter", "The record is finished."),
    ]
    assert [step for step in told if step in way] == way


def test_every_running_service_tells_the_settings_in_force(stack, monkeypatch):
    monkeypatch.setenv("HISTGEN_SETTLE_S", "9")  # here, and not in the service
    told = stack.json("config", "show", "--running")["services"]
    here = stack("config", "show", "gateway", "--running").out
    gateway = stack.json("config", "show", "--url", stack.record["gateway"])

    assert sorted(one["name"] for one in told) == ["gateway", "reporter", "tiler"]
    assert all(one["settings"]["store"]["value"] == stack.record["store"] for one in told)
    assert gateway["settle_s"] == {"value": 0.3, "from": "HISTGEN_SETTLE_S"}
    assert gateway == next(one["settings"] for one in told if one["name"] == "gateway")
    assert re.search(r"^settle_s +0\.3 +HISTGEN_SETTLE_S +9\.0", here, re.MULTILINE)
