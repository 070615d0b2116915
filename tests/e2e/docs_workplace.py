"""The workplace that the docs' commands are typed in: files of the names that they use, one world, one stack.

What the docs name but a test cannot have stands for something small, and nothing else is changed:

| the docs say | here it is |
|---|---|
| `slide.svs`, `scans/`, `predictions.csv` and the other files of `furnish` | small ones of these names |
| `/scans`, `/archive` | folders of the workplace |
| `s3://scans/…`, `s3://lab/…` | buckets of moto's server |
| `127.0.0.1:8080`, `gw:80`, `localhost:9092` | gateway and broker of the running stack |
| the id of a dead letter | the id of one that is there |
| `~/.local/share/histgen` | the home of the running stack |
| `ENCODER`, `MODEL` | the shipped model |
| `--count 100`, `histgen train` | nine slides (of one split: two), one epoch |
"""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import tiny_model
from docs_blocks import ROOT
from running_stack import RunningStack
from waiting import until

from histgen_lib.models import SHIPPED_MODEL

FOREVER = {
    "histgen up": "Gateway",
    "histgen watch": "Gateway",
    "python -m services.gateway": "is open",
    "python -m services.search": "is open",
}
"""Commands that run until they are stopped, and a word that tells that they run."""

_KCAT = """\
#!{python}
'''A stand-in for kcat -P: sends standard input with its headers as one record that ours can read.'''
import sys
from histgen_lib.bus import BusSettings, open_publisher
from histgen_lib.events import Event
options = list(zip(sys.argv[2::2], sys.argv[3::2]))
headers = dict(value.split("=", 1) for name, value in options if name == "-H")
event = Event.read(headers, sys.stdin.buffer.read())
assert dict(options)["-t"] == event.type and dict(options)["-k"] == event.key, options
open_publisher(BusSettings(dict(options)["-b"])).publish(event.type, event.key, event)
"""
_SLIDES = (
    *("slide.svs", "scan.svs", "CMU-1.svs"),
    *("scans/S-17.svs", "scans/a.svs", "scans/b.tiff"),
    *("case-7/one.tiff", "case-7/two.tiff"),
    *("archive/2024/p.svs", "archive/2024/q.svs"),
)
_PREDICTIONS = """\
slide_id,generated,reference,draft,truth
s1,Breast biopsy,Breast biopsy,Breast biopsy,Breast biopsy
s2,Colon excision,Colon biopsy,Colon excision,Colon biopsy
"""
SLIDES = 9  # of seed 7: the fewest that have all three splits
SECONDS = 300  # finds what hangs


_LETTER = r"\b1f0c9a3e5b7d4c2e8a6f0b1d3c5e7a90\b"


@dataclass(frozen=True)
class Workplace:
    """A folder with the files that the docs' commands ask for, and the stack that they talk to."""

    folder: Path
    stack: RunningStack
    environment: dict[str, str]

    @property
    def letter(self) -> str:
        """The id of a dead letter that is there now: commands replay them, and others take their place."""
        letters = self.stack.home / "objects" / "dead-letter"
        return until(lambda: sorted(letters.glob("*.json")), 120, "a dead letter")[0].stem

    def real(self, text: str) -> str:
        """Put what is here in the place of what the docs name."""
        record = self.stack.record
        for pattern, here in (
            (r"(?<=file://)/(scans|archive)\b", rf"{self.folder}/\1"),
            (r"(?<=[\s\"'(<])/(scans|archive)\b", rf"{self.folder}/\1"),
            (r"http://127\.0\.0\.1:8080\b|http://gw:80\b", record["gateway"]),
            (r"kafka://localhost:9092\b|(?<=-b )localhost:9092\b", record["bus"]),
            (_LETTER, lambda _: self.letter),
            (r"(~|\$HOME)/\.local/share/histgen\b", str(self.stack.home)),
            (r"\b(ENCODER|MODEL)\b", str(SHIPPED_MODEL)),
            (r"--count \d\d+\b(?=.* --split)", "--count 2"),
            (r"--count \d\d+\b", f"--count {SLIDES}"),
            (r"\bhistgen train ", "histgen train --epochs 1 "),
        ):
            text = re.sub(pattern, here, text)
        return text

    def run(self, command: str) -> None:
        """Run a shell command to its end; it has to succeed."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.real(command)],
            cwd=self.folder, env=self.environment, capture_output=True, text=True,
            timeout=SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"

    def start_and_stop(self, command: str, sign: str) -> None:
        """Run a command on a terminal until it says that it runs, then press Ctrl-C."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            ["bash", "-c", f"exec {self.real(command)}"],
            cwd=self.folder, env=self.environment | self._alone(command),
            stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        output = bytearray()
        reader = threading.Thread(target=_read, args=(ours, output), daemon=True)
        reader.start()
        try:
            until(lambda: sign.encode() in output or process.poll() is not None, SECONDS, f"{command} to run")
            assert process.poll() is None, bytes(output).decode()
            process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) in (0, 130), bytes(output).decode()
        finally:
            process.kill()
            reader.join()
            os.close(ours)

    def _alone(self, command: str) -> dict[str, str]:
        """Give what would be in the running stack's way a home, a broker and a store of its own."""
        if command.startswith("histgen watch"):
            return {}
        own = self.folder / "alone"
        return {
            "HISTGEN_HOME": str(own / "home"),
            "HISTGEN_BUS": f"embedded:{own / 'bus.db'}",
            "HISTGEN_STORE": f"file:{own / 'objects'}",
            "HISTGEN_CASE_INDEX": f"file:{own / 'case-index'}",
            "HISTGEN_PORT": "0",
        }


def furnish(folder: Path, world: Path) -> None:
    """Put the files into a folder that the docs' commands name."""
    for name in _SLIDES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        tiny_model.write_slide(folder / name, side_px=768, seed=sum(name.encode()))
    tiny_model.write_slide(folder / "old.svs", side_px=768, mpp=None)
    shutil.copytree(world, folder / "world", copy_function=os.link)
    for slide in (world / "slides").iterdir():
        os.link(slide, folder / "scans" / slide.name)
    shutil.copy(world / "annotation.json", folder / "annotation.json")
    (folder / "predictions.csv").write_text(_PREDICTIONS, encoding="utf-8")
    (folder / "docs").mkdir()
    for name in (".venv", "Makefile", "deploy", "services", "histgen_lib"):
        (folder / name).symlink_to(ROOT / name)


def environment_of(stack: RunningStack, tools: Path, more: dict[str, str]) -> dict[str, str]:
    """Return the environment of someone who sits at this stack's machine, its tools first on the path."""
    tools.mkdir(exist_ok=True)
    kcat = tools / "kcat"
    kcat.write_text(_KCAT.format(python=sys.executable), encoding="utf-8")
    kcat.chmod(0o755)
    path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    of_the_stack = {
        "HISTGEN_HOME": str(stack.home),
        "HISTGEN_BUS": str(stack.record["bus"]),
        "HISTGEN_STORE": str(stack.record["store"]),
    }
    threads = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return {**os.environ, **more, **of_the_stack, **threads, "PATH": path}


def give_a_letter(stack: RunningStack, folder: Path) -> None:
    """Submit a slide, and one that cannot be drafted."""
    path = tiny_model.write_slide(folder / "unscaled.tif", side_px=768, mpp=None)
    assert stack("submit", folder / "CMU-1.svs", path).code == 0


def _read(terminal: int, output: bytearray) -> None:
    while True:
        try:
            part = os.read(terminal, 1 << 16)
        except OSError:
            return
        if not part:
            return
        output += part
