"""Every block of README and docs that a person would type works as it is written."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import click
import pytest
import tiny_model
import typer
from cli_runs import histgen
from docs_blocks import KINDS, ROOT, Block, blocks, blocks_of, commands, spans
from docs_workplace import FOREVER, SLIDES, Workplace, environment_of, furnish, give_a_letter
from running_stack import RunningStack, stack_up
from servers.s3_servers import ACCESS_KEY, SECRET_KEY, S3Server

from histgen_lib.cli.app import make_app

BLOCKS = blocks()
TYPED = [block for block in BLOCKS if block.kind != "text"]
PAGES = sorted({block.page for block in TYPED if block.runner is None})


@pytest.fixture(scope="module")
def bucket(_moto: S3Server, tmp_path_factory) -> dict[str, str]:
    """Put slides into the buckets that the docs name; returns the environment that leads there."""
    _moto.resume()
    _moto.start()
    where = {
        "AWS_ENDPOINT_URL": _moto.endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    client = boto3.client(
        "s3", endpoint_url=_moto.endpoint, region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY,
    )  # fmt: skip
    for name in ("scans", "lab"):
        client.create_bucket(Bucket=name)
    for number, place in enumerate(("scans/a.svs", "scans/2025/b.svs", "lab/scans/2024/c.svs")):
        name, _, key = place.partition("/")
        slide = tmp_path_factory.mktemp("s3") / "slide.tif"
        client.upload_file(str(tiny_model.write_slide(slide, side_px=768, seed=900 + number)), name, key)
    return where


@pytest.fixture(scope="module")
def stack(tmp_path_factory, bucket) -> Iterator[RunningStack]:
    home = tmp_path_factory.mktemp("docs") / "home"
    here = (
        tmp_path_factory.getbasetemp()
    )  # the desk's folders, which the docs call "." and /scans, lie below it
    roots = ["--allow", here, "--allow", "s3://scans", "--allow", "s3://lab"]
    with stack_up(home, "--inference", "onnx", "--tilers", 2, *roots, env=bucket) as running:
        yield running


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "world"
    assert histgen("synth", "--count", SLIDES, "--seed", 7, "--out", folder).code == 0
    return folder


@pytest.fixture(scope="module")
def furnished(stack, bucket, world, tmp_path_factory) -> Workplace:
    folder = tmp_path_factory.mktemp("desk")
    furnish(folder, world)
    give_a_letter(stack, folder)
    return Workplace(folder, stack, environment_of(stack, folder / "tools", bucket))


@pytest.fixture
def workplace(furnished) -> Iterator[Workplace]:
    """Sit down where the same slides lie as before; what a page's commands wrote is cleared away."""
    before = set(furnished.folder.iterdir())
    yield furnished
    for path in set(furnished.folder.iterdir()) - before:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("page", PAGES)
def test_what_the_page_says_can_be_typed_works(workplace, page):
    for block in TYPED:
        if block.page == page and block.runner is None:
            _work(block, workplace)


def _work(block: Block, workplace: Workplace) -> None:
    if block.kind == "json":
        json.loads(block.text)
    elif block.kind == "python":
        (workplace.folder / "typed.py").write_text(workplace.real(block.text), encoding="utf-8")
        workplace.run(f"{shlex.quote(sys.executable)} typed.py")
    elif block.kind == "env":
        (workplace.folder / "typed.env").write_text(block.text, encoding="utf-8")
        others = "HISTGEN_BUS=embedded:bus.db HISTGEN_STORE=file:objects"  # what the block may leave unsaid
        workplace.run(f"export {others}; set -a; . ./typed.env; histgen config show tiler")
    else:
        for command in commands(block.text):
            _type(command, workplace)


def _type(command: str, workplace: Workplace) -> None:
    """Run a command; `make` only as far as it says what it would do, since its targets are CI's."""
    forever = next((sign for start, sign in FOREVER.items() if command.startswith(start)), None)
    if command.startswith("make "):
        workplace.run(f"make -n {command.removeprefix('make ')}")
    elif forever:
        workplace.start_and_stop(command, forever)
    else:
        workplace.run(command)


def test_every_block_says_what_it_is():
    """A new block is marked, and thereby run; `text` is not a way around that."""
    unmarked = [block.where for block in BLOCKS if block.kind not in KINDS]
    typed = re.compile(
        r"^\s*(\$ |histgen |make |python |pip |curl |docker |torchrun |import |from \w+ import )", re.M
    )
    disguised = [block.where for block in BLOCKS if block.kind == "text" and typed.search(block.text)]

    assert unmarked == []
    assert disguised == []


def test_a_block_that_others_run_names_who_does():
    for block in BLOCKS:
        if block.runner is None:
            continue
        if block.runner.startswith("make "):
            target = block.runner.removeprefix("make ")
            recipe = subprocess.run(
                ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True
            )
            ran = recipe.stdout
        else:
            ran = (ROOT / block.runner).read_text(encoding="utf-8")
        if block.kind == "python":
            assert Path(block.page).name in ran, f"{block.where}: {block.runner} does not run it"
            continue
        for command in commands(block.text):
            telling = ("compare", "torchrun", "train", "chaos", "demo", "tritonserver", "histgen.service")
            telling += ("import-official", "report", "encode", "compile", "export", "plan", "helm", "kubectl")
            telling += ("sync", "compose", "deploy/images/build.sh", "supervise-models")
            telling += ("sign", "withdraw", "cases", "search", "curl")
            telling += ("train-retrieval", "evaluate-retrieval", "compare-retrieval", "mine-prompts")
            words = [word for word in command.split() if word in telling]
            assert words, f"{block.where}: {block.runner} has to run something of it"
            assert any(word in ran for word in words), f"{block.where}: {block.runner} does not run it"


def test_every_option_that_is_written_about_exists():
    """`histgen X --option` is one of X's; an option that stands alone is some command's."""
    of_commands = _options(typer.main.get_command(make_app([])))
    every = {option for options in of_commands.values() for option in options}
    texts = [
        (block.where, command) for block in BLOCKS if block.kind == "sh" for command in commands(block.text)
    ]
    unknown = [
        (where, option)
        for where, text in [*texts, *spans()]
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)
        if option not in _allowed(text, of_commands, every)
    ]

    assert unknown == []


def _allowed(text: str, of_commands: dict[str, set[str]], every: set[str]) -> set[str]:
    words = text.split()
    if words[0].startswith("--"):
        return every
    if words[0] != "histgen":
        return set(re.findall(r"--[a-z-]+", text))  # another program's: running it is the test
    two, one = " ".join(words[1:3]), words[1] if len(words) > 1 else ""
    return of_commands.get(two) or of_commands.get(one) or every


def _options(command: click.Command, name: str = "") -> dict[str, set[str]]:
    found = {name: {"--help"} | {o for p in command.params for o in (*p.opts, *p.secondary_opts)}}
    for sub, child in getattr(command, "commands", {}).items():
        found |= _options(child, f"{name} {sub}".strip())
    return found


def test_blocks_are_found_with_their_kind_and_their_runner():
    text = "a\n<!-- run by make demo -->\n```sh\nmake demo\n```\n\n```\nx\n```\n"
    found = blocks_of(text, "p.md")

    assert [(b.line, b.kind, b.runner) for b in found] == [(3, "sh", "make demo"), (7, "", None)]


def test_commands_are_taken_out_whole():
    text = "make a   # why\n\n  # only a remark\ncurl x \\\n  -d '{\n}'\necho 1 |\ncat\n"

    assert commands(text) == ["make a", "curl x   -d '{\n}'", "echo 1 |\ncat"]
