"""A policy is in force once it is signed and logged, once, and its file is what was logged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from client.engine import policy_desk
from client.engine.home import RegionHome
from client.engine.log_state import LogState
from client.engine.policy import RegionPolicy, read_policy, require_logged
from client.engine.policy_desk import newest_policy, policy_changes, sign_policy
from common.audit.entry import make_entry
from common.audit.log import AuditLog
from common.errors import InputError, PolicyError, StorageError, VerificationError
from tests.support.region_home import make_region_home

ACCESS = {"grant_s_max": 60, "people": {"a": ["1"], "b": ["2"]}}


@pytest.fixture
def home(tmp_path: Path) -> RegionHome:
    return make_region_home(tmp_path / "home")


def opened(home: RegionHome) -> AuditLog:
    return AuditLog.open(home.log, origin=home.origin, signer=home.signer("log"))


def changed(home: RegionHome, **changes: Any) -> RegionPolicy:
    return RegionPolicy.model_validate({**read_policy(home.policy).to_record(), **changes})


def logged_digest(home: RegionHome) -> str | None:
    """The digest that the engine goes by: it has verified the controller's signature."""
    with AuditLog.open_read_only(home.log) as log:
        state = LogState(log, home.read_registry(), home.region)
        state.refresh()
        return state.policy_sha256


def test_a_signed_policy_is_the_one_that_the_engine_works_under(home: RegionHome) -> None:
    policy = changed(home, rounds_max=5, app_bundles=["a" * 64])
    with opened(home) as log:
        logged = sign_policy(home, log, policy, clock_ms=lambda: 1_700_000_000_000)
        assert (logged.index, logged.sha256) == (log.size - 1, policy.digest)
    assert logged.in_force_from == "2023-11-14T22:13:20.000Z"
    assert logged.fields == policy.to_record()
    assert logged_digest(home) == policy.digest
    assert read_policy(home.policy) == policy
    require_logged(read_policy(home.policy), logged_digest(home), home.policy)


def test_signing_what_is_in_force_logs_nothing(home: RegionHome) -> None:
    with opened(home) as log:
        before = log.size
        logged = sign_policy(home, log, read_policy(home.policy))
        assert (log.size, logged.index) == (before, before - 1)


def test_a_policy_that_was_in_force_before_is_logged_anew(home: RegionHome) -> None:
    first = read_policy(home.policy)
    with opened(home) as log:
        sign_policy(home, log, changed(home, rounds_max=5))
        again = sign_policy(home, log, first)
        assert again.index == log.size - 1
    assert logged_digest(home) == first.digest


def test_what_a_crash_left_between_log_and_file_the_same_command_completes(
    home: RegionHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = changed(home, rounds_max=5)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with opened(home) as log:
        with monkeypatch.context() as patch:
            patch.setattr(policy_desk, "write_durably", full)
            with pytest.raises(StorageError, match=r"policy\.json cannot be written: No space"):
                sign_policy(home, log, policy)
        # The engine refuses meanwhile: the file is not what was logged.
        with pytest.raises(PolicyError, match="signed and logged"):
            require_logged(read_policy(home.policy), policy.digest, home.policy)
        size = log.size
        sign_policy(home, log, policy)
        assert log.size == size
    assert read_policy(home.policy) == policy


def test_another_region_s_policy_is_not_signed(home: RegionHome) -> None:
    with opened(home) as log:
        size = log.size
        with pytest.raises(PolicyError, match=r"of region-2, and the home .* of region-1"):
            sign_policy(home, log, changed(home, region="region-2"))
        assert log.size == size


def test_without_the_controller_s_key_nothing_is_logged_and_the_file_stays(
    home: RegionHome,
) -> None:
    (home.keys / "controller.pem").unlink()
    before = home.policy.read_bytes()
    with opened(home) as log:
        size = log.size
        with pytest.raises(InputError, match=r"controller\.pem"):
            sign_policy(home, log, changed(home, rounds_max=5))
        assert log.size == size
    assert home.policy.read_bytes() == before


def test_a_policy_whose_digest_is_not_its_fields_is_refused(home: RegionHome) -> None:
    policy = changed(home, rounds_max=5)
    record = policy_desk.policy_record(policy, 0) | {"policy_sha256": "0" * 64}
    with opened(home) as log:
        log.append([make_entry(record, home.signer("controller"))])
        with pytest.raises(VerificationError, match="digest is not that of its fields"):
            newest_policy(log)


def test_a_log_without_a_policy_has_none(home: RegionHome) -> None:
    with AuditLog.open(
        home.root / "other.sqlite", origin=home.origin, signer=home.signer("log"), create=True
    ) as log:
        assert newest_policy(log) is None


@pytest.mark.parametrize(
    ("before", "after", "more"),
    [
        ({"rounds_max": 5}, {"rounds_max": 6}, True),
        ({"rounds_max": 6}, {"rounds_max": 5}, False),
        ({"epsilon_cap_per_year": "8"}, {"epsilon_cap_per_year": "10"}, True),
        ({"noise_multiplier_min": "0.5"}, {"noise_multiplier_min": "0.4"}, True),
        ({"noise_multiplier_min": "0.5"}, {"noise_multiplier_min": "1"}, False),
        ({"quorum_min": 3}, {"quorum_min": 2}, True),
        ({"catalogues": ["a", "b"]}, {"catalogues": ["b"]}, False),
        ({"catalogues": ["a"]}, {"catalogues": ["b"]}, True),
        ({"app_bundles": ["a"]}, {}, True),
        ({}, {"app_bundles": ["a"]}, False),
        ({"app_bundles": ["a"]}, {"app_bundles": ["a", "b"]}, True),
        ({"app_bundles": ["a", "b"]}, {"app_bundles": ["b"]}, False),
        ({"modes": ["local"]}, {"modes": ["distributed"]}, True),
        ({"arrays": [{"name": "a"}]}, {"arrays": [{"name": "b"}]}, True),
        ({"epsilon_caps_per_model": {"m": "1"}}, {}, True),
        ({}, {"epsilon_caps_per_model": {"m": "1"}}, False),
        ({"epsilon_caps_per_model": {"m": "1"}}, {"epsilon_caps_per_model": {"m": "2"}}, True),
        ({"epsilon_caps_per_model": {"m": "1"}}, {"epsilon_caps_per_model": {"n": "1"}}, True),
        (
            {"epsilon_caps_per_model": {"m": "1", "n": "1"}},
            {"epsilon_caps_per_model": {"m": "1.0"}},
            False,
        ),
        ({}, {"access": ACCESS}, True),
        ({"access": ACCESS}, {}, False),
        ({"access": ACCESS}, {"access": ACCESS | {"grant_s_max": 61}}, True),
        ({"access": ACCESS}, {"access": ACCESS | {"grant_s_max": 59}}, False),
        ({"access": ACCESS}, {"access": ACCESS | {"people": {"a": ["1"]}}}, False),
        ({"access": ACCESS}, {"access": ACCESS | {"people": {"a": ["1", "2"], "b": ["3"]}}}, True),
        ({"access": ACCESS}, {"access": ACCESS | {"people": {"a": ["1"], "c": ["2"]}}}, True),
        ({"withdrawal_in_round": "finish"}, {"withdrawal_in_round": "discard"}, None),
        ({"retention_days": {"seals": 9}}, {}, None),
        ({"purpose": "a:B"}, {"purpose": "c:D"}, None),
    ],
)
def test_a_change_says_whether_more_is_allowed(
    before: dict[str, Any], after: dict[str, Any], more: bool | None
) -> None:
    (change,) = policy_changes(before, after)
    assert change.allows_more is more


def test_every_bound_of_a_policy_has_a_direction() -> None:
    """A new field is judged, or said to have no direction; it is never passed over."""
    without = {"region", "purpose", "withdrawal_in_round", "retention_days"}
    directed = (
        {"access"}
        | policy_desk._CAPS
        | policy_desk._FLOORS
        | policy_desk._LISTS
        | policy_desk._TABLES
    )
    assert directed | without == set(RegionPolicy.model_fields)
    assert not directed & without
