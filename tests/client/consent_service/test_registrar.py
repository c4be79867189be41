"""Choices become signed, chained records; what may not be said is not logged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from client.consent_service.registrar import Choice
from common.consent import FEDERATED_TRAINING, RECOMMENDATIONS
from common.envelope import Envelope
from common.errors import ConsentError, FormatError
from simulations.provision import OpenRegion, open_region
from tests.support.small_federation import home_of, make_federation


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenRegion]:
    root = tmp_path_factory.mktemp("registrar") / "run"
    folder, _, set_ups = make_federation(root, regions=1, quorum=1)
    with open_region(home_of(folder), set_ups[0]) as opened:
        yield opened


def test_a_new_customer_consents_withdraws_and_consents_again(region: OpenRegion) -> None:
    registrar, log = region.registrar, region.engine.log
    assert not registrar.consents("newcomer")
    registrar.record([Choice.give("newcomer", {FEDERATED_TRAINING: True})])
    assert registrar.consents("newcomer")
    registrar.record([Choice.withdraw("newcomer")])
    assert not registrar.consents("newcomer")
    registrar.record([Choice.give("newcomer", {FEDERATED_TRAINING: True})])
    assert registrar.consents("newcomer")
    records = [Envelope.decode(data).record() for _, data in log.entries(log.size - 3)]
    assert [record["seq"] for record in records] == [1, 2, 3]
    assert len({str(record["sid"]) for record in records}) == 1
    assert "newcomer" not in str(records)


def test_consent_is_per_purpose(region: OpenRegion) -> None:
    region.registrar.record([Choice.give("choosy", {RECOMMENDATIONS: True})])
    assert not region.registrar.consents("choosy")


def test_a_batch_is_logged_whole_or_not_at_all(region: OpenRegion) -> None:
    size = region.engine.log.size
    with pytest.raises(ConsentError, match="never given"):
        region.registrar.record(
            [Choice.give("one", {FEDERATED_TRAINING: True}), Choice.withdraw("two")]
        )
    with pytest.raises(ConsentError, match="named twice"):
        region.registrar.record([Choice.refuse("one"), Choice.refuse("one")])
    assert region.engine.log.size == size
    assert len(region.registrar.record([])) == 0


def test_what_could_not_be_read_back_is_not_logged(region: OpenRegion) -> None:
    size = region.engine.log.size
    wrong = replace(Choice.refuse("odd"), state="dpv:Whatever")
    with pytest.raises(FormatError):
        region.registrar.record([wrong])
    assert region.engine.log.size == size


def test_a_pseudonym_is_not_derived_from_the_reference_alone(
    region: OpenRegion, tmp_path: Path
) -> None:
    """A24: without the customer's key, guessing references finds no pseudonym."""
    folder, _, set_ups = make_federation(tmp_path / "other", regions=1, quorum=1)
    here = region.engine.subjects.pseudonyms()
    with open_region(home_of(folder), set_ups[0]) as other:
        there = other.engine.subjects.pseudonyms()
    shared = set(here) & set(there)
    assert len(shared) >= 20
    assert not {here[ref] for ref in shared} & {there[ref] for ref in shared}
