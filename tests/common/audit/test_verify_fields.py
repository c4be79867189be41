"""The verifier's own schemas: every field of every kind refuses every value of a wrong form."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from common.audit.verify import fields as f
from common.audit.verify.records import (
    MANIFEST_SCHEMA,
    REGISTRY_SCHEMA,
    SCHEMAS,
    check_record,
)
from common.errors import FormatError
from tests.support.access_bundle import R1, granting
from tests.support.answered_bundle import answering
from tests.support.bundle_builder import JsonRecord, record_of

JSON = [None, True, False, -1, 0, 1, 2**53, "", "x", [], ["x"], [1], {}, {"x": 1}]
DIGEST = "a" * 64

# A check, values it accepts, and whatever of JSON above it accepts as well.
CHECKS: dict[str, tuple[f.Check, list[Any], list[Any]]] = {
    "text": (f.text, ["a"], ["x"]),
    "time": (f.time, ["2026-01-01T00:00:00.000Z"], []),
    "digest": (f.digest, [DIGEST], []),
    "ulid": (f.ulid, ["01ARZ3NDEKTSV4RRFFQ69G5FAV"], []),
    "code": (f.code, ["timed-out"], ["x"]),
    "decimal": (f.decimal, ["0.25", "1e-6", "8"], []),
    "natural": (f.natural, [2**53 - 1], [0, 1]),
    "positive": (f.positive, [7], [1]),
    "dtype": (f.dtype, ["<f4"], []),
    "texts": (f.texts, [["a", "b"]], [[], ["x"]]),
    "one of, or null": (f.one_of("a", None), ["a"], [None]),
    "nullable": (f.nullable(f.digest), [DIGEST], [None]),
    "list": (f.list_of(f.positive), [[1, 2]], [[], [1]]),
    "object": (f.object_of(x=f.positive), [{"x": 2}], [{"x": 1}]),
    "any object": (f.any_object, [{"y": []}], [{}, {"x": 1}]),
    "table": (f.table_of(f.positive), [{"a": 1, "b": 2}], [{"x": 1}]),
    "boolean": (f.boolean, [], [True, False]),
    "purposes": (f.purposes, [{"a:B": True, "c:D": False}], [{}]),
}


def same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_accepts_its_form_and_nothing_else(name: str) -> None:
    accepts, good, also = CHECKS[name]
    for value in [*good, *also]:
        accepts(value, "x")
    for value in JSON:
        if not any(same(value, each) for each in also):
            with pytest.raises(FormatError):
                accepts(value, "x")


@pytest.mark.parametrize(
    ("accepts", "value"),
    [
        (f.digest, DIGEST.upper()),
        (f.digest, DIGEST + "\n"),
        (f.digest, "а" * 64),
        (f.ulid, "81ARZ3NDEKTSV4RRFFQ69G5FAV"),
        (f.ulid, "01ARZ3NDEKTSV4RRFFQ69G5FAU"),
        (f.code, "Timed-Out"),
        (f.code, "timed--out"),
        (f.decimal, "-1"),
        (f.decimal, "+1"),
        (f.decimal, "01"),
        (f.decimal, "1."),
        (f.decimal, "nan"),
        (f.decimal, "Infinity"),
        (f.decimal, "1e999"),
        (f.decimal, "1_0"),
        (f.decimal, "١"),
        (f.table_of(f.decimal), {"": "1"}),
        (f.table_of(f.decimal), {"m": "1", "n": "-1"}),
        (f.purposes, {"a:B": 1}),
        (f.purposes, {"a:B": None}),
        (f.purposes, {"a": True}),
        (f.time, "2026-02-30T00:00:00.000Z"),
        (f.time, "2026-01-01T00:00:00Z"),
        (f.integer(1, 3), 4),
    ],
)
def test_near_misses_are_refused(accepts: f.Check, value: Any) -> None:
    with pytest.raises(FormatError):
        accepts(value, "x")


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a record, the record itself left out."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, (dict, list)):
            yield from _paths(item, (*path, key))


def _with(record: JsonRecord, path: tuple[Any, ...], value: Any) -> JsonRecord:
    changed = copy.deepcopy(record)
    place: Any = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


def _honest_records() -> dict[str, JsonRecord]:
    federation = answering().answer_all()
    entries = [entry for log in federation.logs.values() for entry in log]
    records = [record_of(entry) for entry in entries]
    found = {r["v"].removeprefix("fedpref-").removesuffix("/1"): r for r in records}
    found["incident"] = {
        "v": "fedpref-incident/1", "run": "r", "round": 1, "region": "a", "party": "a",
        "reason": "late", "detail": "It came late.", "time": "2026-01-01T00:00:00.000Z",
    }  # fmt: skip
    round_of = {"run": "r", "round": 1, "attempt": 1, "region": "a"}
    at = {"time": "2026-01-01T00:00:00.000Z"}
    member = {"region": "a", "round_entry": DIGEST, "public_key": DIGEST}
    found["mask"] = {
        "v": "fedpref-mask/1", **round_of, "roster": DIGEST, "members": [member],
        "masked": DIGEST, "bytes": 4, "norm_bound": "1.5", **at,
    }  # fmt: skip
    found["unmask"] = {"v": "fedpref-unmask/1", **round_of, "survivors": ["a", "b"], **at}
    found["answers"] = {
        "v": "fedpref-answers/1", "run": "r", "answers": DIGEST, "rounds": 3, "plan": DIGEST,
        "catalogue": DIGEST, **at,
    }  # fmt: skip
    found["keys-digest"] = {"v": "fedpref-keys-digest/1", "registry_version": 1, "sha256": DIGEST}
    granted = granting().grant_all()
    for record in map(record_of, granted.logs[R1]):
        if record["v"].startswith("fedpref-access-"):
            found[record["v"].removeprefix("fedpref-").removesuffix("/1")] = record
    # A consent of an adult has no guardian; so the fields of one are tried in a minor's.
    guardian = {"state": "dpv:ConsentGiven", "evidence": DIGEST}
    found["consent of a minor"] = found["consent"] | {"minor": True, "guardian": guardian}
    found["registry"] = record_of(federation.registry[0])
    found["manifest"] = record_of(federation.manifest(federation.bundle_files()))
    return found


def check(label: str, record: JsonRecord) -> None:
    """Checks a record by what it is labelled."""
    outside = {"registry": REGISTRY_SCHEMA, "manifest": MANIFEST_SCHEMA}
    if label in outside:
        outside[label](record, "")
    else:
        check_record(label.partition(" ")[0], record)


RECORDS = _honest_records()
# What is inside of a policy is not the format's matter; its digest and its bounds are. What a
# question's own constants are is the question's.
OPEN = {
    ("policy", "policy"),
    ("query", "parameters"),
    ("manifest", "files"),
    ("manifest", "artifacts"),
}


def test_every_kind_is_covered() -> None:
    labels = RECORDS.keys() - {"registry", "manifest"}
    assert {label.partition(" ")[0] for label in labels} | {"keys"} == SCHEMAS.keys()


@pytest.mark.parametrize("kind", sorted(RECORDS))
def test_no_place_of_a_record_takes_an_object_a_list_and_a_number_alike(kind: str) -> None:
    record = RECORDS[kind]
    check(kind, record)
    for path in _paths(record):
        if (kind, path[0]) in OPEN and len(path) > 1:
            continue
        refused = 0
        for value in ({"a": 1}, ["a", 1], 2**60, -1, True, ""):
            try:
                check(kind, _with(record, path, value))
            except FormatError:
                refused += 1
        assert refused >= 5, path


@pytest.mark.parametrize("kind", sorted(RECORDS))
def test_no_field_may_be_missing_or_added(kind: str) -> None:
    record = RECORDS[kind]
    for name in record:
        with pytest.raises(FormatError, match=name):
            check(kind, {n: v for n, v in record.items() if n != name})
    with pytest.raises(FormatError, match="extra"):
        check(kind, record | {"extra": None})


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(FormatError, match="not known"):
        check_record("wish", {"v": "fedpref-wish/1"})
