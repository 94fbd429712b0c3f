"""The alert rules speak of metrics that there are."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from prometheus_client import REGISTRY

import sora.metrics
import sora.web

RULES = Path(sora.web.__file__).with_name("alerts.yml")


def rules() -> list[dict[str, object]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_every_metric_is_declared() -> None:
    declared = {
        name for family in REGISTRY.collect() for name in (family.name, f"{family.name}_total", f"{family.name}_bucket")
    }
    for rule in rules():
        used = set(re.findall(r"\bsora_\w+", str(rule["expr"])))
        assert used, rule
        assert used <= declared, rule


def test_every_rule_says_what_to_do() -> None:
    for rule in rules():
        assert re.fullmatch(r"Sora[A-Z]\w+", str(rule["alert"]))
        assert set(rule["annotations"]) == {"summary", "action"}  # type: ignore[call-overload]
        assert set(rule["labels"]) == {"severity"}  # type: ignore[call-overload]


def test_the_uploader_is_watched() -> None:
    text = RULES.read_text()
    for metric in ("sora_uploads_stranded", "sora_uploads_oldest_seconds", "sora_staging_quarantined_files"):
        assert metric in text


def test_keys_are_watched() -> None:
    (rule,) = [rule for rule in rules() if "sora_encryption_key_errors_total" in str(rule["expr"])]
    assert "keys list" in str(rule["annotations"])
