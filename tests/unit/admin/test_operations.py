"""The table of operations: every row can be rendered, documented and called."""

from __future__ import annotations

import re

import msgspec
import pytest

from sora.admin.context import Operation, facts
from sora.admin.operations import OPERATIONS
from sora.errors import SoraError

ROWS = pytest.mark.parametrize("row", OPERATIONS, ids=lambda row: row.name)
METHODS = {"GET", "POST", "PUT", "DELETE"}


def test_names_and_routes_are_unique() -> None:
    assert len({row.name for row in OPERATIONS}) == len(OPERATIONS)
    assert len({re.sub(r"\{\w+\}", "{}", row.route) for row in OPERATIONS}) == len(OPERATIONS)


def test_rows_of_one_noun_stand_together() -> None:
    nouns = [row.noun for row in OPERATIONS]
    assert len([n for i, n in enumerate(nouns) if i == 0 or nouns[i - 1] != n]) == len(set(nouns))


@ROWS
def test_a_row_is_well_formed(row: Operation) -> None:
    assert re.fullmatch(r"[a-z]+(\.[a-z0-9-]+)?", row.name)
    method, path = row.route.split(" ")
    assert method in METHODS
    assert path.startswith("/v1/")
    names = {field.name for field in row.fields()}
    assert set(re.findall(r"\{(\w+)\}", path)) <= names
    assert set(row.positional) <= names
    assert row.summary.endswith(".")
    assert len(row.summary) <= 100
    assert all(issubclass(error, SoraError) for error in row.errors)


@ROWS
def test_every_field_is_described_and_secrets_are_no_arguments(row: Operation) -> None:
    for field in row.fields():
        _, about, extra = facts(field)
        assert about, field.name
        if field.name == "password":
            assert extra.get("secret")
            assert field.name not in row.positional
            assert "{password}" not in row.route


@ROWS
def test_requests_refuse_unknown_fields_and_answers_are_json(row: Operation) -> None:
    if row.request is not None:
        with pytest.raises(msgspec.ValidationError, match="unknown field `no_such`"):
            msgspec.convert({"no_such": 1}, row.request, strict=False)
    msgspec.json.schema(row.response)


def test_optional_positionals_come_last() -> None:
    for row in OPERATIONS:
        required = [field.required for name in row.positional for field in row.fields() if field.name == name]
        assert required == sorted(required, reverse=True), row.name
