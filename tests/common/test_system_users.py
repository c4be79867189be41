"""Users of processes: made by root, and given what is theirs, no link followed on the way."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import InputError, StorageError
from common.system_users import (
    SystemUser,
    acting_as,
    as_owner,
    ensure_user,
    find_user,
    give,
    give_all,
    is_root,
    require_reachable,
    run_as,
)

NOBODY = SystemUser("nobody", 65_534, 65_534)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can get to, which pytest's own is not."""
    with tempfile.TemporaryDirectory(prefix="fedpref-users-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_user_is_found_by_name_and_by_id() -> None:
    root = find_user("root")
    assert root == find_user(0) == SystemUser("root", 0, 0)
    assert find_user("no-such-user-here") is None
    assert find_user(4_000_000_000) is None


@pytest.mark.parametrize("name", ["", "Root", "a b", "-x", "x;y", "a" * 33, "ü"])
def test_what_is_no_name_is_refused_before_anything_is_made(name: str) -> None:
    with pytest.raises(InputError, match="no name of a system user"):
        ensure_user(name)


def test_root_makes_a_user_without_shell_home_or_password() -> None:
    name = "fedpref-made-by-test"
    if not is_root():
        assert ensure_user(name) is None
        return
    try:
        made = ensure_user(name)
        assert made is not None
        assert ensure_user(name) == made
        line = Path("/etc/passwd").read_text().partition(f"\n{name}:")[2].partition("\n")[0]
        assert line.endswith(":/nonexistent:/usr/sbin/nologin")
        assert 0 < made.uid < 1000
    finally:
        subprocess.run(["userdel", name], check=True, capture_output=True)


def test_giving_follows_no_link(folder: Path) -> None:
    if not is_root():
        give_all(folder, None)
        return
    target = folder / "roots-own"
    target.write_text("x")
    given = folder / "given"
    (given / "inner").mkdir(parents=True)
    (given / "file").write_text("x")
    (given / "link").symlink_to(target)
    give_all(given, NOBODY)
    for path in (given, given / "inner", given / "file", given / "link"):
        assert path.lstat().st_uid == NOBODY.uid
    assert target.stat().st_uid == 0


def test_what_another_has_already_is_left(folder: Path) -> None:
    if not is_root():
        return
    (folder / "theirs").write_text("x")
    os.chown(folder / "theirs", 1234, 1234)
    give_all(folder, NOBODY)
    assert (folder / "theirs").stat().st_uid == 1234


def test_a_mode_is_set(folder: Path) -> None:
    (folder / "file").write_text("x")
    give(folder / "file", None, mode=0o640)
    assert stat.S_IMODE((folder / "file").stat().st_mode) == 0o640
    with pytest.raises(StorageError, match="gone"):
        give(folder / "gone", None, mode=0o600)


def test_a_folder_that_a_user_cannot_get_to_is_named(folder: Path) -> None:
    closed = folder / "closed"
    (closed / "inner").mkdir(parents=True)
    closed.chmod(0o700)
    with pytest.raises(InputError, match=r"/closed has mode 0700") as caught:
        require_reachable(closed / "inner" / "x", NOBODY)
    assert f"chmod o+x {closed}" in caught.value.remedy
    closed.chmod(0o711)
    require_reachable(closed / "inner" / "x", NOBODY)
    require_reachable(closed / "inner" / "x", None)


def test_root_acts_as_the_owner_and_is_root_again_afterwards(folder: Path) -> None:
    if not is_root():
        with as_owner(folder):
            (folder / "x").write_text("x")
        return
    theirs = folder / "theirs"
    theirs.mkdir()
    secret = folder / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)
    os.chown(theirs, NOBODY.uid, NOBODY.gid)
    with as_owner(theirs):
        (theirs / "file").write_text("x")
        with pytest.raises(PermissionError):
            secret.write_text("overwritten")
    assert os.geteuid() == 0
    assert (theirs / "file").stat().st_uid == NOBODY.uid
    assert secret.read_text() == "root's"
    with pytest.raises(ZeroDivisionError), acting_as(NOBODY):
        raise ZeroDivisionError
    assert (os.geteuid(), os.getegid()) == (0, 0)


def test_a_link_planted_in_a_users_folder_does_not_turn_roots_hand(folder: Path) -> None:
    if not is_root():
        return
    theirs, victim = folder / "theirs", folder / "victim"
    theirs.mkdir()
    victim.write_text("precious")
    victim.chmod(0o644)
    (theirs / "next").symlink_to(victim)
    os.chown(theirs, NOBODY.uid, NOBODY.gid)
    with as_owner(theirs), pytest.raises(PermissionError):
        (theirs / "next").write_text("gone")
    assert victim.read_text() == "precious"


def test_a_program_runs_as_the_user_with_no_group_of_ours() -> None:
    user = NOBODY if is_root() else None
    ended = run_as(user, ["/usr/bin/id", "-u"], environment={}, timeout_s=20)
    assert int(ended.stdout) == (NOBODY.uid if user else os.geteuid())
    if user:
        groups = run_as(user, ["/usr/bin/id", "-G"], environment={}, timeout_s=20)
        assert groups.stdout.split() == [str(NOBODY.gid).encode()]
    echoed = run_as(user, ["/bin/cat"], environment={}, stdin=b"said", timeout_s=20)
    assert echoed.stdout == b"said"


def test_a_program_that_does_not_end_is_ended() -> None:
    with pytest.raises(StorageError, match="did not end within"):
        run_as(None, ["/bin/sleep", "60"], environment={}, timeout_s=0.2)
