"""The Java programs that coco-caption scores with, and its text preparation by the PTB tokenizer.

The tokenizer looks past the end of a line (an abbreviation's full stop depends on what follows), so all texts
go through it in one piece and in their order, exactly as coco-caption sends them.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from histgen_lib.errors import FatalError

METEOR_JAR = "meteor/meteor-1.5.jar"
PTB_JAR = "tokenizer/stanford-corenlp-3.4.1.jar"

# What coco-caption's tokenizer wrapper drops (its list of 2014, token for token).
PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)
# Characters at which the tokenizer ends a line: left in a report, they would shift all later rows by one.
_LINE_BREAKS = str.maketrans(dict.fromkeys("\n\v\f\r\u2028\u2029", " "))


def java_program() -> str:
    """Return the path of the `java` launcher. Raises FatalError `evaluation-java-missing`."""
    program = shutil.which("java")
    if program is None:
        raise FatalError(
            "evaluation-java-missing",
            "Java was not found: METEOR and the ptb tokenizer are Java programs.",
            hint="Install it (on Debian: apt-get install default-jre-headless), or score without METEOR "
            "and with the tokenizer 'none'.",
        )
    return program


def jar_path(relative: str) -> Path:
    """Return the path of a jar in the installed pycocoevalcap package.

    Raises FatalError `evaluation-package-missing` if the package, or the jar in it, is absent.
    """
    spec = importlib.util.find_spec("pycocoevalcap")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        jar = Path(folder) / relative
        if jar.is_file():
            return jar
    raise FatalError(
        "evaluation-package-missing",
        f"The package pycocoevalcap, which contains {Path(relative).name}, is not installed.",
        hint="Install the scoring extra: pip install 'histgen[evaluate]'.",
    )


def run_java(arguments: Sequence[str], *, stdin: bytes, timeout_s: float) -> str:
    """Run `java arguments…` to completion and return its standard output as text.

    The process has ended when this returns or raises, whatever the reason. Raises FatalError:
    `evaluation-java-missing`, `evaluation-java-timeout` after `timeout_s` seconds, and
    `evaluation-java-failed` for a non-zero exit.
    """
    command = [java_program(), *arguments]
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise FatalError(
            "evaluation-java-timeout",
            f"A Java scorer did not finish within {timeout_s:.0f} s and was stopped.",
            hint="METEOR is slow on very long reports; score fewer rows, or allow more time.",
        ) from error
    except OSError as error:
        raise java_failure(f"could not be started ({error.strerror})") from error
    if done.returncode != 0:
        raise java_failure(_last_line(done.stderr) or f"exit status {done.returncode}")
    return done.stdout.decode("utf-8", errors="replace")


def java_failure(reason: str) -> FatalError:
    """Return the error for a Java scorer that failed or gave an unexpected answer."""
    return FatalError(
        "evaluation-java-failed",
        f"A Java scorer failed: {reason}.",
        hint="Check that `java -version` works and that 2 GB of memory are free.",
    )


def _last_line(stderr: bytes) -> str:
    lines = stderr.decode("utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip().rstrip(".") if lines else ""


def ptb_tokenize(texts: Sequence[str], *, timeout_s: float | None = None) -> list[str]:
    """Tokenize `texts` as coco-caption does; one string of space-separated tokens each, in order.

    Line breaks inside a text count as spaces. `timeout_s` defaults to two minutes plus 0.1 s a text.
    Raises FatalError (`evaluation-java-*`, `evaluation-package-missing`).
    """
    if not texts:
        return []
    limit_s = 120 + 0.1 * len(texts) if timeout_s is None else timeout_s
    return [_drop_punctuation(line) for line in _tokenized_lines(texts, limit_s)]


def _tokenized_lines(texts: Sequence[str], timeout_s: float) -> list[str]:
    lines = _run([text.translate(_LINE_BREAKS) for text in texts], timeout_s).split("\n")
    while len(lines) > len(texts) and not lines[-1]:
        lines.pop()
    if len(lines) != len(texts):
        raise java_failure(f"the tokenizer answered {len(lines)} lines for {len(texts)} texts")
    return lines


def _run(lines: Sequence[str], timeout_s: float) -> str:
    with tempfile.TemporaryDirectory(prefix="histgen-ptb-") as folder:
        source = Path(folder) / "texts"
        source.write_bytes("\n".join(lines).encode("utf-8", errors="replace"))
        tokenizer = "edu.stanford.nlp.process.PTBTokenizer"
        options = ["-preserveLines", "-lowerCase", str(source)]
        return run_java(["-cp", str(jar_path(PTB_JAR)), tokenizer, *options], stdin=b"", timeout_s=timeout_s)


def _drop_punctuation(line: str) -> str:
    return " ".join(token for token in line.rstrip().split(" ") if token not in PUNCTUATION)
