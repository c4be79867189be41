"""Rosters: what travels, and every way in which one is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from common import canonical_json
from common.errors import FormatError
from common.secure_aggregation import (
    MaskingKey,
    Quantiser,
    Roster,
    SecureSumRefusedError,
    decode_roster,
    encode_roster,
)
from common.secure_aggregation.roster import LEAST_SUMMED
from tests.support.masked_sum import (
    AT_MS,
    context,
    keys,
    names,
    registry,
    roster_of,
    statement,
    trainer,
)

REGIONS = names(5)


def check(roster: Roster, *, least: int = 3, at_ms: int = AT_MS, planned: Any = REGIONS) -> None:
    roster.check(context(5), planned=planned, least=least, registry=registry(5), at_ms=at_ms)


def refusal(roster: Roster, **how: Any) -> str:
    with pytest.raises(SecureSumRefusedError) as refused:
        check(roster, **how)
    return refused.value.reason


def replaced(roster: Roster, region: str, envelope: Any) -> Roster:
    kept = [
        each
        for each, said in zip(roster.envelopes, roster.statements, strict=True)
        if said.region != region
    ]
    return Roster.of([*kept, envelope])


def test_a_roster_travels_unchanged_and_in_order() -> None:
    roster = roster_of(context(5), keys(list(reversed(REGIONS))))
    check(roster)
    assert roster.regions == tuple(REGIONS)
    travelled = decode_roster(
        canonical_json.decode(canonical_json.encode(encode_roster(roster)), max_bytes=1 << 20)
    )
    assert travelled == roster
    assert travelled.digest(context(5)) == roster.digest(context(5))


def test_a_roster_of_fifty_is_half_a_percent_of_a_million_values() -> None:
    regions = names(50)
    roster = roster_of(context(50, run="20260102T030405-abcdef"), keys(regions))
    size = len(canonical_json.encode(encode_roster(roster)))
    assert size < 0.005 * 4 * 10**6


def test_a_public_key_swapped_on_the_way_is_refused() -> None:
    """The man in the middle: he has another region's key replaced by his own."""
    roster = roster_of(context(5), keys(REGIONS))
    wire = copy.deepcopy(encode_roster(roster))
    wire["members"][1]["statement"]["public_key"] = MaskingKey.generate().public.hex()  # type: ignore[index]
    assert refusal(decode_roster(wire)) == "wrong-signer"
    # Nor does a key of another role or region help him.
    own = statement("region-002", MaskingKey.generate(), context(5), signer=trainer("region-003"))
    assert refusal(replaced(roster, "region-002", own)) == "wrong-signer"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"run": "run-0"}, "other-run"),
        ({"plan": "0" * 64}, "other-plan"),
        ({"server_round": 1}, "other-round"),
        ({"mechanism": "popularity"}, "other-mechanism"),
        ({"model_in": "0" * 64}, "other-model"),
        ({"quantiser": Quantiser(-11, 5)}, "other-quantiser"),
        ({"quantiser": Quantiser(-12, 6)}, "other-quantiser"),
    ],
    ids=lambda value: str(value),
)
def test_a_statement_of_another_sum_is_refused_by_name(
    changes: dict[str, Any], expected: str
) -> None:
    """Stale keys, a replayed round, regions that were sent different models, and so on."""
    other = statement("region-004", MaskingKey.generate(), context(5, **changes))
    roster = replaced(roster_of(context(5), keys(REGIONS)), "region-004", other)
    assert decode_roster(encode_roster(roster)) == roster
    assert refusal(roster) == expected


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_are_refused_whatever_is_asked(count: int) -> None:
    roster = roster_of(context(5), keys(REGIONS[:count]))
    assert refusal(roster, least=0) == "too-few"
    assert LEAST_SUMMED == 3


def test_fewer_than_the_region_wants_are_refused() -> None:
    roster = roster_of(context(5), keys(REGIONS[:4]))
    check(roster, least=4)
    assert refusal(roster, least=5) == "too-few"


def test_a_region_that_nobody_registered_is_refused() -> None:
    roster = roster_of(context(5), keys([*REGIONS[:3], "sybil-001"]))
    assert refusal(roster) == "unknown-region"
    # Not even if the plan has it: the registry pins no key for it.
    assert refusal(roster, planned=[*REGIONS, "sybil-001"]) == "wrong-signer"


def test_a_region_that_is_doubled_is_refused() -> None:
    roster = roster_of(context(5), keys(REGIONS[:3]))
    twin = statement("region-001", MaskingKey.generate(), context(5))
    assert refusal(Roster.of([*roster.envelopes, twin])) == "region-twice"


def test_two_regions_with_one_key_are_refused() -> None:
    held = keys(REGIONS)
    held["region-002"] = held["region-001"]
    assert refusal(roster_of(context(5), held)) == "key-shared"


def test_a_key_that_is_no_longer_valid_is_refused() -> None:
    roster = roster_of(context(5), keys(REGIONS))
    assert refusal(roster, at_ms=AT_MS + 10**10) == "wrong-signer"


Change = Callable[[dict[str, Any]], Any]
MALFORMED: dict[str, Change] = {
    "no members": lambda w: w["members"].clear(),
    "an unknown field": lambda w: w.update(more=1),
    "a shared field too few": lambda w: w["shared"].pop("model_in"),
    "a shared field too many": lambda w: w["shared"].update(region="region-001"),
    "a member without a signature": lambda w: w["members"][0].pop("signature"),
    "a member without a key": lambda w: w["members"][0]["statement"].pop("public_key"),
    "a member with more": lambda w: w["members"][0]["statement"].update(extra=1),
    "a member that repeats what is shared": lambda w: w["members"][0]["statement"].update(
        run="run-1"
    ),
    "members out of order": lambda w: w["members"].reverse(),
    "a signature that is no base64": lambda w: w["members"][0].update(signature="*"),
    "a short signature": lambda w: w["members"][0].update(signature="AAAA"),
    "a key id that is none": lambda w: w["members"][0].update(key_id="x"),
    "a key too short": lambda w: w["members"][0]["statement"].update(public_key="00"),
    "a round that is true": lambda w: w["shared"].update(round=True),
    "a ring of 64 bits": lambda w: w["shared"]["quantiser"].update(ring_bits=64),
    "a grid that is none": lambda w: w["shared"]["quantiser"].update(grid_exponent=5000),
    "another version": lambda w: w["shared"].update(v="fedpref-masking-key/2"),
    "a region that is a path": lambda w: w["members"][0]["statement"].update(region="../x"),
    "too many": lambda w: w["members"].extend(w["members"] * 200),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_roster_is_refused(name: str) -> None:
    wire = copy.deepcopy(encode_roster(roster_of(context(5), keys(REGIONS))))
    MALFORMED[name](wire)
    with pytest.raises(FormatError):
        decode_roster(wire)


@pytest.mark.parametrize("value", [None, [], "roster", 1, {}])
def test_what_is_no_roster_is_refused(value: Any) -> None:
    with pytest.raises(FormatError):
        decode_roster(value)
