"""Programs really are of other users, and have nothing of whoever started them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from common.errors import InputError, UsageError
from simulations.deployment_attacks.accounts import (
    Account,
    Programs,
    make_accounts,
    processes_of,
    require_users,
)
from tests.support.shared_python import shared_scripts

_SAY = (
    "import json, os, sys\n"
    "print(json.dumps([os.getresuid(), os.getresgid(), os.getgroups(), dict(os.environ)]))"
)


def said_by(account: Account, program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        account.command([str(account.scripts / "python"), "-c", program]),
        env=account.environment(),
        cwd=account.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_program_is_its_account_s_and_nobody_else_s(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDPREF_SECRET", "of the caller")
    one, other = make_accounts(work, ("one", "other"), shared_scripts(work)).values()
    said = said_by(one, _SAY)
    users, groups, more, environment = json.loads(said.stdout)
    assert users == [one.user] * 3
    assert groups == [one.user] * 3
    assert more == []
    assert "FEDPREF_SECRET" not in environment
    assert one.user not in (0, os.geteuid(), other.user)


def test_an_account_s_folder_is_closed_to_the_others(work: Path) -> None:
    one, other = make_accounts(work, ("one", "other"), shared_scripts(work)).values()
    path = other.give("keys/secret", b"of the other")
    read = f"open({str(path)!r}).read()"
    assert "PermissionError" in said_by(one, read).stderr
    assert said_by(other, read).returncode == 0


def test_an_account_cannot_become_another(work: Path) -> None:
    one, other = make_accounts(work, ("one", "other"), shared_scripts(work)).values()
    assert "PermissionError" in said_by(one, f"import os; os.setuid({other.user})").stderr
    assert "PermissionError" in said_by(one, "import os; os.setuid(0)").stderr


def test_programs_are_gone_after_the_block_with_all_they_started(work: Path) -> None:
    (one,) = make_accounts(work, ("one",), shared_scripts(work)).values()
    with Programs() as programs:
        log = programs.start("sleeper", one, ["sh", "-c", "echo here; sleep 600 & sleep 600"])
        while "here" not in log.read_text():
            assert programs.is_running("sleeper")
        assert len(processes_of(one.user)) >= 2
        programs.start("other", one, ["sleep", "600"])
        programs.stop("other")
        assert not programs.is_running("other")
    assert processes_of(one.user) == []


def test_without_root_nothing_is_shown(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UsageError, match="only root can give a program such a user"):
        make_accounts(work, ("one",))


def test_a_python_that_others_cannot_run_is_named(work: Path) -> None:
    hidden = work / "hidden" / "bin"
    hidden.mkdir(parents=True)
    (hidden / "python").write_text("")
    (work / "hidden").chmod(0o700)
    with pytest.raises(InputError, match="closed to other users") as raised:
        require_users(hidden)
    assert str(hidden.parent) in str(raised.value)


def test_a_link_to_a_python_that_others_cannot_run_is_no_better(work: Path) -> None:
    hidden, linked = work / "hidden", work / "bin"
    hidden.mkdir(mode=0o700)
    linked.mkdir()
    work.chmod(0o711)
    (hidden / "python3").write_text("")
    (linked / "python").symlink_to(hidden / "python3")
    with pytest.raises(InputError, match=f"{hidden} is closed to other users"):
        require_users(linked)
