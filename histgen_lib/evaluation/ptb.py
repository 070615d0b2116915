"""coco-caption's text preparation: Stanford's PTB tokenizer, lower-cased, punctuation tokens dropped.

The tokenizer looks past the end of a line (an abbreviation's full stop depends on what follows), so all
texts go through it in one piece and in their order, exactly as coco-caption sends them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from histgen_lib.evaluation._java import PTB_JAR, jar_path, java_failure, run_java

# What coco-caption's tokenizer wrapper drops (its list of 2014, token for token).
PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)
# Characters that the tokenizer ends a line at: left in a report they would shift all later rows by one.
_LINE_BREAKS = str.maketrans(dict.fromkeys("\n\v\f\r\u2028\u2029", " "))


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
