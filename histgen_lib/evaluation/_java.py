"""Running the two Java programs that coco-caption scores with: METEOR 1.5 and the Stanford PTB tokenizer."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from histgen_lib.errors import FatalError

METEOR_JAR = "meteor/meteor-1.5.jar"
PTB_JAR = "tokenizer/stanford-corenlp-3.4.1.jar"


def java_program() -> str:
    """Path of the `java` launcher; raises FatalError `evaluation-java-missing` where there is none."""
    program = shutil.which("java")
    if program is None:
        raise FatalError(
            "evaluation-java-missing",
            "Java was not found: METEOR and the ptb tokenizer are Java programs.",
            hint="Install it (on Debian: apt-get install default-jre-headless), or leave METEOR out "
            "and score with the tokenizer 'none'.",
        )
    return program


def jar_path(relative: str) -> Path:
    """Path of a jar inside the installed pycocoevalcap package.

    Raises FatalError `evaluation-package-missing` where the package, or the jar in it, is absent.
    """
    spec = importlib.util.find_spec("pycocoevalcap")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        jar = Path(folder) / relative
        if jar.is_file():
            return jar
    raise FatalError(
        "evaluation-package-missing",
        f"The package pycocoevalcap, which carries {Path(relative).name}, is not installed.",
        hint="Install the scoring extra: pip install 'histgen[evaluate]'.",
    )


def run_java(arguments: Sequence[str], *, stdin: bytes, timeout_s: float) -> str:
    """Run `java arguments…` to its end and return its standard output as text.

    The process is gone when this returns or raises, whatever the reason. Raises FatalError:
    `evaluation-java-missing`, `evaluation-java-timeout` after `timeout_s` seconds, and
    `evaluation-java-failed` for a non-zero exit.
    """
    command = [java_program(), *arguments]
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise FatalError(
            "evaluation-java-timeout",
            f"A Java scorer gave no answer within {timeout_s:.0f} s and was stopped.",
            hint="Very long reports take METEOR very long; score fewer rows, or allow more time.",
        ) from error
    except OSError as error:
        raise java_failure(f"could not be started ({error.strerror})") from error
    if done.returncode != 0:
        raise java_failure(_last_line(done.stderr) or f"exit status {done.returncode}")
    return done.stdout.decode("utf-8", errors="replace")


def java_failure(reason: str) -> FatalError:
    """Return the error for a Java scorer that broke off or answered something unexpected."""
    return FatalError(
        "evaluation-java-failed",
        f"A Java scorer failed: {reason}.",
        hint="Check that `java -version` works and that 2 GB of memory are free.",
    )


def _last_line(stderr: bytes) -> str:
    lines = stderr.decode("utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip().rstrip(".") if lines else ""
