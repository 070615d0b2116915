"""Every alert fires, stays silent and recovers: promtool runs the cases in rules/, and none is missing."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest
import yaml
from monitoring_files import ALERTS, ROOT, RULE_FILES, RULES, exists, metrics_in, promtool

from services.codes import BAG, EVENT, INFERENCE, JOB, OBJECT, SLIDE
from services.table import SERVICES

CASES = sorted((Path(__file__).parent / "rules").glob("*.yml"))
KINDS = {"fires", "stays silent", "recovers"}
HEADINGS = ["What it means", "Look first", "Likely causes and cures", "Verify", "Escalate"]
RUNBOOKS = ROOT / "docs" / "runbooks"
PAGE = (ROOT / "docs" / "alerts.md").read_text()


def test_promtool_accepts_rules_and_configuration():
    promtool("check", "rules", *RULE_FILES)
    promtool("check", "config", ROOT / "deploy" / "prometheus" / "prometheus.yml")


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_alerts_fire_stay_silent_and_recover_as_the_cases_say(path):
    promtool("test", "rules", path)


def cases() -> list[dict]:
    return [case for path in CASES for case in yaml.safe_load(path.read_text())["tests"]]


def test_every_alert_has_cases_of_all_three_kinds():
    found = defaultdict(set)
    for case in cases():
        alert, kind = re.match(rf"(Histgen\w+) ({'|'.join(KINDS)})\b", case["name"]).groups()
        found[alert].add(kind)

    assert found == dict.fromkeys({rule["alert"] for rule in ALERTS}, KINDS)


def test_a_case_asserts_what_its_name_says():
    for case in cases():
        alert, kind = re.match(rf"(Histgen\w+) ({'|'.join(KINDS)})\b", case["name"]).groups()
        steps = [step for step in case.get("alert_rule_test", []) if step["alertname"] == alert]
        others = [step for step in case.get("alert_rule_test", []) if step["exp_alerts"]]
        looked = [step for step in case.get("promql_expr_test", []) if step["exp_samples"]]
        if kind == "fires":
            assert others or looked, case["name"]
        else:
            assert steps, case["name"]
            assert steps[-1]["exp_alerts"] == [], case["name"]
        if kind == "recovers":
            assert any("firing" in step["expr"] for step in looked), case["name"]


def test_every_severity_and_cause_is_seen_firing_with_its_whole_text():
    seen = set()
    for case in cases():
        for step in case.get("alert_rule_test", []):
            for alert in step["exp_alerts"]:
                labels = alert["exp_labels"]
                seen.add((step["alertname"], labels["severity"], labels.get("cause")))

    assert seen == {
        (rule["alert"], rule["labels"]["severity"], rule["labels"].get("cause")) for rule in ALERTS
    }


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_an_alert_says_how_urgent_it_is_what_happened_and_what_to_do(rule):
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"


def test_every_alert_has_its_runbook_and_no_runbook_is_left_over():
    names = {rule["alert"] for rule in ALERTS}

    assert {path.stem for path in RUNBOOKS.glob("*.md")} == names | {"README"}
    for name in names:
        text = (RUNBOOKS / f"{name}.md").read_text()
        assert text.startswith(f"# {name}\n")
        headings = re.findall(r"^## (.+)$", text, re.M)
        assert headings == ["What it means", "Look first", "Likely causes and cures", "Verify", "Escalate"], (
            name
        )
        assert f"[{name}]({name}.md)" in (RUNBOOKS / "README.md").read_text(), f"how was {name} tried?"


def test_the_page_lists_every_alert_with_its_severities():
    rows = re.findall(r"^\| \[(\w+)\]\(runbooks/\1\.md\) \| ([\w, ]+) \|", PAGE, re.M)
    severities = defaultdict(set)
    for rule in ALERTS:
        severities[rule["alert"]].add(rule["labels"]["severity"])

    assert {name: set(found.split(", ")) for name, found in rows} == severities


def test_the_page_states_the_thresholds_that_the_rules_have():
    stated = re.findall(r"^\| [^|]+ \| `([^`]+)` \| (\w+)\.yml, `([\w:]+)` \|", PAGE, re.M)

    assert stated
    for value, file, name in stated:
        rules = [rule for rule in RULES[file] if name in (rule.get("alert"), rule.get("record"))]
        assert any(value in rule["expr"] or value == rule.get("for") for rule in rules), (value, file, name)


def test_only_known_metrics_are_asked_for():
    unknown = {
        name
        for rules in RULES.values()
        for rule in rules
        for name in metrics_in(rule["expr"])
        if not exists(name)
    }

    assert unknown == set()


def test_dead_letters_are_our_fault_exactly_where_no_slide_and_no_sender_is():
    (rule,) = [rule for rule in RULES["slo"] if rule.get("record") == "histgen:our_dead_letters:total"]
    ours = re.compile(re.search(r'code=~"([^"]+)"', rule["expr"])[1])
    of_others = {*SLIDE.letters, *EVENT.letters, "object-key", "object-uri"} - {"record-damaged"}
    known = {code for service in SERVICES for code in service.known_codes().letters}

    of_jobs = (*JOB.letters, *INFERENCE.letters, *BAG.letters)

    assert [code for code in of_jobs if not ours.fullmatch(code)] == []
    assert [code for code in of_others if ours.fullmatch(code)] == []
    assert {code for code in known if ours.fullmatch(code)} <= {*of_jobs, *OBJECT.letters, "record-damaged"}
