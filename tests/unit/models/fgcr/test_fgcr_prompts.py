"""Mined prompts tell reports apart, in any language, and are the same each time."""

from __future__ import annotations

import json
import random
import tracemalloc
from pathlib import Path

import pytest
from cli_runs import histgen

from histgen_lib.errors import InvalidInputError
from histgen_lib.models.fgcr.prompts import mine_prompts, prompt_sets
from histgen_lib.synth.spec import sample

REAL = Path(__file__).parents[4].parent / "shared" / "reports" / "reg2025_reports.json"
GERMAN = [
    "Magen, Biopsie:\n  Chronische Gastritis",
    "Magen, Biopsie:\n  Adenokarzinom, mäßig differenziert",
    "Darm, Biopsie:\n  Adenokarzinom, mäßig differenziert",
    "Darm, Resektat:\n  Tubuläres Adenom",
    "Darm, Resektat:\n  Tubuläres Adenom",
    "Magen, Resektat:\n  Chronische Gastritis",
]
CHINESE = ["胃，活检：慢性胃炎", "胃，活检：腺癌", "结肠，活检：腺癌", "结肠：管状腺瘤", "结肠：管状腺瘤"]


@pytest.fixture(scope="module")
def reports() -> list[str]:
    return [sample(3, index).report for index in range(300)]


def test_prompts_do_not_depend_on_the_order_of_the_reports(reports: list[str]) -> None:
    shuffled = random.Random(1).sample(reports, len(reports))
    assert mine_prompts(shuffled) == mine_prompts(reports)


def test_there_are_25_by_default_or_any_number_each_once(reports: list[str]) -> None:
    assert len(set(mine_prompts(reports))) == 25
    assert mine_prompts(reports, 3) == mine_prompts(reports)[:3]


def test_organs_are_among_the_prompts(reports: list[str]) -> None:
    assert {"Colon", "Lung", "Breast", "Prostate"} <= set(mine_prompts(reports))


def test_no_two_prompts_say_the_same(reports: list[str]) -> None:
    sets = prompt_sets(reports, mine_prompts(reports))
    assert len({column.tobytes() for column in sets.T}) == sets.shape[1]


def test_every_prompt_is_in_some_reports_and_not_in_all(reports: list[str]) -> None:
    shares = prompt_sets(reports, mine_prompts(reports)).mean(axis=0)
    assert (shares > 0).all()
    assert (shares < 1).all()


def test_a_report_without_punctuation_takes_little_memory() -> None:
    """Of a run of words only the ends that could be phrases are kept, not every one to its beginning."""
    endless = " ".join(f"word{place}" for place in range(2000))
    tracemalloc.start()
    try:
        mine_prompts([endless, "alpha beta", "beta gamma"])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8e6


def test_german_reports_give_german_prompts() -> None:
    found = mine_prompts(GERMAN)
    assert {"Tubuläres Adenom", "Adenokarzinom", "Chronische Gastritis"} <= set(found)
    assert "mäßig" not in found
    assert len({row.tobytes() for row in prompt_sets(GERMAN, found)}) == len(set(GERMAN))


def test_a_script_without_spaces_has_prompts_too() -> None:
    found = mine_prompts(CHINESE, 4)
    assert any("腺癌" in prompt for prompt in found)


@pytest.mark.skipif(not REAL.is_file(), reason="the challenge's reports are not here")
def test_real_reports_are_told_apart_by_organ_and_diagnosis() -> None:
    texts = [case["report"] for case in json.loads(REAL.read_text(encoding="utf-8"))["train"]]
    found = mine_prompts(texts)
    assert len(found) == 25
    assert {"Breast", "Lung", "Stomach"} <= set(found)
    assert not {"of", "with", "1", "2"} & set(found)
    assert len({row.tobytes() for row in prompt_sets(texts, found)}) > 60


def test_prompts_are_found_as_whole_words_without_regard_to_case() -> None:
    found = prompt_sets(["COLON, biopsy:\n  Adenocarcinoma", "Semicolon"], ["Colon", "colon, biopsy", ""])
    assert found.tolist() == [[True, False, False], [False, False, False]]


@pytest.mark.parametrize("reports", [[], ["one"], ["same words"] * 5, ["alpha", "beta", "gamma"]])
def test_reports_that_nothing_tells_apart_are_an_error(reports: list[str]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        mine_prompts(reports)
    assert caught.value.code == "prompts-none"


def test_the_command_prints_prompts_with_their_share(tmp_path: Path, reports: list[str]) -> None:
    cases = [{"id": f"c{number}", "report": report} for number, report in enumerate(reports)]
    path = tmp_path / "annotation.json"
    path.write_text(json.dumps({"train": cases, "val": [], "test": []}))
    run = histgen("mine-prompts", "--annotation", path, "--count", 5, "--json")
    assert run.code == 0
    found = json.loads(run.out)["prompts"]
    assert tuple(one["prompt"] for one in found) == mine_prompts(reports, 5)
    assert all(0 < one["share"] < 1 for one in found)
