"""When Java is absent, hangs or fails: an error code, a hint, and no process left behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from histgen_lib.errors import FatalError
from histgen_lib.evaluation import Pair, evaluate_pairs, java
from histgen_lib.evaluation.captions import meteor_statistics
from histgen_lib.evaluation.java import ptb_tokenize

FakeJava = Callable[[str], None]


def test_without_java_meteor_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FatalError, match="default-jre-headless") as caught:
        evaluate_pairs([Pair("1", "a", "a")])
    assert caught.value.code == "evaluation-java-missing"


def test_without_java_everything_but_meteor_can_still_be_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = evaluate_pairs([Pair("1", "a b c d", "a b c d")], with_meteor=False)
    assert result.metrics["BLEU_4"].value == pytest.approx(1)
    assert "METEOR" not in result.metrics
    assert "METEOR was left out." in result.notes


def test_without_pycocoevalcap_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(FatalError, match=r"histgen\[evaluate\]") as caught:
        meteor_statistics(["a"], ["a"])
    assert caught.value.code == "evaluation-package-missing"


def test_a_hanging_java_is_stopped_and_leaves_no_process(fake_java: FakeJava, tmp_path: Path) -> None:
    fake_java(f"echo $$ > {tmp_path}/pid; exec sleep 60")
    with pytest.raises(FatalError) as caught:
        meteor_statistics(["a"], ["a"], timeout_s=1)
    assert caught.value.code == "evaluation-java-timeout"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(
    "script",
    [
        "echo 'Error occurred: out of memory.' >&2; exit 1",
        "cat > /dev/null; echo 'Error: specify SCORE or EVAL or SING'",
        "cat > /dev/null; echo '1.0 2.0'",
        "cat > /dev/null",
    ],
    ids=["breaks off", "complains", "answers too few counts", "answers nothing"],
)
def test_a_failing_meteor_is_an_error_and_never_a_number(fake_java: FakeJava, script: str) -> None:
    fake_java(script)
    with pytest.raises(FatalError) as caught:
        meteor_statistics(["a"], ["a"])
    assert caught.value.code == "evaluation-java-failed"


def test_a_tokenizer_that_loses_a_row_is_an_error(fake_java: FakeJava) -> None:
    fake_java("echo one")
    with pytest.raises(FatalError) as caught:
        ptb_tokenize(["one", "two", "three"])
    assert caught.value.code == "evaluation-java-failed"


def test_a_java_that_cannot_start_is_an_error(fake_java: FakeJava, tmp_path: Path) -> None:
    fake_java("exit 0")
    (tmp_path / "bin" / "java").write_bytes(b"\x7fELF not a program")
    with pytest.raises(FatalError) as caught:
        ptb_tokenize(["one"])
    assert caught.value.code == "evaluation-java-failed"


def test_nothing_to_score_starts_no_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert meteor_statistics([], []).shape == (0, 23)
    assert ptb_tokenize([]) == []
