"""Codes for errors and errors for codes: the kind comes through, the words never do."""

from __future__ import annotations

import pytest

from common import errors
from common.egress_reasons import REASONS
from common.errors import FederationError, FedprefError, InputError, UsageError
from common.reason_codes import FAILED, REASON_CODES, EngineFailedError, error_of, reason_code


@pytest.mark.parametrize(("kind", "code"), REASON_CODES)
def test_an_error_and_its_code_are_each_others(kind: type[FedprefError], code: str) -> None:
    assert reason_code(kind("household 1823", remedy="item 77")) == code
    error = error_of(code)
    assert type(error) is kind
    assert "1823" not in str(error)
    assert error.remedy


def test_every_error_of_ours_has_a_code_that_may_leave() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    ours = [kind for kind in kinds if issubclass(kind, FedprefError)]
    assert {UsageError, FederationError, InputError} <= set(ours)
    assert {reason_code(kind("x")) for kind in ours} <= REASONS


@pytest.mark.parametrize("error", [ValueError("1823"), MemoryError(), KeyError("item 77")])
def test_a_defect_is_a_failure(error: Exception) -> None:
    assert reason_code(error) == FAILED
    assert isinstance(error_of(FAILED), EngineFailedError)


@pytest.mark.parametrize("code", ["", "household 1823", "SystemExit", "relay-failure"])
def test_a_foreign_code_gives_no_words(code: str) -> None:
    assert str(error_of(code)) == "The privacy engine refused: refused. Its own log says why."
