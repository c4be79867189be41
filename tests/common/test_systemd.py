"""Units as systemd itself reads them: valid, confined, and saying nothing more than was meant."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError, StorageError
from common.supervision import Program
from common.systemd import Hardening, render_unit, write_units

PROGRAM = Program(
    name="relay",
    command=("/bin/true", "relay", "--work", "/srv/region one/relay", "100%", "$HOME"),
    environment={"PATH": "/usr/bin", "A": 'b "c" \\d 5%'},
    user="daemon",
    directory=Path("/srv"),
    restart="always",
    start_seconds=3.0,
    stop_seconds=20,
)
HARDENING = Hardening(
    writable=(Path("/srv/region one/relay"), Path("/var/lib/x")),
    hidden=(Path("/srv/region one/home"),),
    loopback_only=True,
    memory_max_bytes=1 << 30,
    extra_calls=("landlock_create_ruleset", "seccomp"),
)


def unit(**changes: object) -> str:
    return render_unit(
        replace(PROGRAM, **changes),
        description="fedpref: the relay of 100% eu-west",
        hardening=HARDENING,
        after=("fedpref-eu-west-engine.service",),
        environment_file=Path("/srv/region one/engine.env"),
    )


def analyzed(tmp_path: Path, text: str, *command: str) -> str:
    program = shutil.which("systemd-analyze")
    assert program is not None, "install the Debian package systemd"
    path = tmp_path / "fedpref-eu-west-relay.service"
    path.write_text(text)
    ended = subprocess.run([program, *command, path], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout + ended.stderr


def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    assert str(tmp_path) not in analyzed(tmp_path, unit(), "verify")


def test_systemd_would_find_what_is_wrong(tmp_path: Path) -> None:
    assert "Unknown key" in analyzed(tmp_path, unit().replace("UMask", "Umbrella"), "verify")


def test_systemd_calls_it_well_confined(tmp_path: Path) -> None:
    told = analyzed(tmp_path, unit(), "security", "--offline=yes", "--no-pager")
    level = re.search(r"exposure level for \S+: ([0-9.]+)", told)
    assert level is not None, told
    assert float(level[1]) <= 2.0


def test_words_are_quoted_and_escaped() -> None:
    text = unit()
    assert 'ExecStart="/bin/true" "relay" "--work" "/srv/region one/relay" "100%%" "$$HOME"' in text
    assert 'Environment="A=b \\"c\\" \\\\d 5%%"' in text
    assert 'ReadWritePaths="/srv/region one/relay" "/var/lib/x"' in text
    assert 'InaccessiblePaths="-/srv/region one/home"' in text
    assert "Description=fedpref: the relay of 100%% eu-west" in text
    assert "EnvironmentFile=-/srv/region one/engine.env" in text


def test_it_waits_for_what_it_needs_and_is_never_given_up() -> None:
    text = unit()
    assert "After=network-online.target fedpref-eu-west-engine.service\n" in text
    assert "StartLimitIntervalSec=0\n" in text
    assert "Restart=always\n" in text
    assert "Restart=on-failure\n" in unit(restart="on-failure")
    assert "KillMode=mixed\n" in text
    assert "KillMode=control-group\n" in unit(stop_group=True)


def test_what_lies_under_a_home_is_seen_read_only() -> None:
    assert "ProtectHome=yes\n" in unit()
    assert "ProtectHome=read-only\n" in unit(directory=Path("/home/fed/regions"))
    assert "ProtectHome=read-only\n" in unit(command=("/root/venv/bin/fedpref-region",))


def test_without_limits_of_its_own_it_has_none_written() -> None:
    text = render_unit(PROGRAM, description="x", hardening=Hardening())
    for key in ("MemoryMax", "ReadWritePaths", "InaccessiblePaths", "IPAddress", "EnvironmentFile"):
        assert f"\n{key}" not in text
    assert "SystemCallFilter=@system-service\n" in text


def test_a_program_without_a_user_gets_no_unit() -> None:
    with pytest.raises(InputError, match="no user"):
        unit(user=None)


@pytest.mark.parametrize(
    "changes",
    [
        {"command": ("/bin/true", "x\nUser=root")},
        {"environment": {"A": "x\n[Install]"}},
        {"directory": Path("/srv/a\nb")},
        {"user": "daemon\nUser=root"},
    ],
)
def test_what_would_begin_a_line_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InputError):
        unit(**changes)


@given(st.text(max_size=20))
def test_a_value_adds_no_line_of_its_own(value: str) -> None:
    plain = unit().count("\n")
    try:
        text = unit(environment={"PATH": "/usr/bin", "A": value})
    except InputError:
        return
    assert text.count("\n") == plain
    assert len(text.splitlines()) == plain or not value.isprintable()


def test_units_are_written_for_all_to_read(tmp_path: Path) -> None:
    assert write_units(tmp_path, {"a.service": "x"}) == ["a.service"]
    assert (tmp_path / "a.service").read_text() == "x"
    with pytest.raises(StorageError, match="--into"):
        write_units(tmp_path / "none", {"a.service": "x"})
    with pytest.raises(InputError):
        write_units(tmp_path, {"../a.service": "x"})
