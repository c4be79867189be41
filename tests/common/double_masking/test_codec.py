from __future__ import annotations

from typing import Any

import pytest

from common import canonical_json
from common.double_masking.codec import (
    bytes_from_json,
    deliveries_from_json,
    deliveries_to_json,
    envelopes_from_json,
    envelopes_to_json,
    reveal_from_json,
    reveal_to_json,
    shares_from_json,
    shares_to_json,
)
from common.double_masking.messages import Reveal, SharesGiven
from common.errors import FormatError
from tests.support.masking_execution import Federation


@pytest.fixture(scope="module")
def federation() -> Federation:
    made = Federation(4, n_values=8)
    made.share(made.pin(), made.regions)
    return made


def _travelled(value: Any) -> Any:
    return canonical_json.decode(canonical_json.encode(value, max_bytes=1 << 20), max_bytes=1 << 20)


def test_messages_are_read_as_they_were_written(federation: Federation) -> None:
    region = federation.regions[0]
    given: SharesGiven = federation.coordinator._shares[region][1]
    assert shares_from_json(_travelled(shares_to_json(given))) == given
    deliveries = federation.coordinator.deliveries(region)
    assert deliveries_from_json(_travelled(deliveries_to_json(deliveries))) == deliveries
    reveal = Reveal({"a": bytes(66)}, {"b": b"\x01" * 66})
    assert reveal_from_json(_travelled(reveal_to_json(reveal))) == reveal
    envelopes = [each.envelope for each in federation.coordinator._known_roster().statements]
    assert envelopes_from_json(_travelled(envelopes_to_json(envelopes))) == envelopes


@pytest.mark.parametrize("value", [None, 1, [], {}, {"seed_shares": {}}, {"a": 1, "b": 2}])
def test_malformed_messages_are_refused(value: Any) -> None:
    for read in (shares_from_json, reveal_from_json):
        with pytest.raises(FormatError):
            read(value)


@pytest.mark.parametrize(
    "share", ["", "00" * 65, "00" * 67, "AB" * 66, "zz" * 66, "00 " * 44, "é" * 132, 5, None]
)
def test_shares_of_another_form_are_refused(share: Any) -> None:
    with pytest.raises(FormatError):
        reveal_from_json({"seed_shares": {"a": share}, "key_shares": {}})


@pytest.mark.parametrize("value", ["é", "a", "====", 1, None, "A" * (1 << 18)])
def test_bytes_of_another_form_are_refused(value: Any) -> None:
    with pytest.raises(FormatError):
        bytes_from_json(value)


def test_more_than_any_sum_has_is_refused() -> None:
    with pytest.raises(FormatError, match="more than"):
        envelopes_from_json([""] * 129)
    with pytest.raises(FormatError, match="at most"):
        deliveries_from_json({str(number): {} for number in range(129)})


def test_proofs_are_bounded(federation: Federation) -> None:
    region = federation.regions[0]
    value = deliveries_to_json(federation.coordinator.deliveries(region))
    first: Any = value[federation.regions[1]]
    first["proof"] = ["00" * 32] * 9
    with pytest.raises(FormatError, match="longer"):
        deliveries_from_json(value)
