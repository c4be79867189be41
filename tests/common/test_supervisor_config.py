"""What supervisord is told: exactly what was meant, or nothing at all."""

from __future__ import annotations

import configparser
import os
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from common.supervisor_config import Program, render_config, require_name

PROGRAM = Program(
    name="engine",
    command=("/opt/fedpref/bin/fedpref-region", "engine", "/srv/region one"),
    environment={"PATH": "/usr/bin", "HOME": "/srv/region one/home"},
    user="fedpref-engine",
    directory=Path("/srv/region one"),
    restart="always",
    start_seconds=3.0,
    stop_seconds=30,
)


def rendered(*programs: Program) -> configparser.RawConfigParser:
    text = render_config(
        programs, folder=Path("/srv/s"), logs=Path("/srv/logs"), socket=Path("/srv/s/x.sock")
    )
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    parser.read_string(text)
    return parser


def test_a_program_is_declared_with_all_of_its_fields() -> None:
    section = dict(rendered(PROGRAM)["program:engine"])
    assert shlex.split(section["command"]) == list(PROGRAM.command)
    assert section["environment"] == 'PATH="/usr/bin",HOME="/srv/region one/home"'
    assert section["autorestart"] == "true"
    assert section["startsecs"] == "3"
    assert section["stopwaitsecs"] == "30"
    assert section["stdout_logfile"] == "/srv/logs/engine.log"
    assert section["killasgroup"] == "true"
    assert section["stopasgroup"] == "false"
    # It waits a second longer after each failed start, and never gives up.
    assert int(section["startretries"]) >= 100_000


def test_programs_start_in_their_order_and_have_their_own_policies() -> None:
    parser = rendered(
        PROGRAM,
        replace(PROGRAM, name="once", restart="never", stop_group=True),
        replace(PROGRAM, name="mostly", restart="on-failure"),
    )
    once, mostly = parser["program:once"], parser["program:mostly"]
    assert (once["priority"], mostly["priority"]) == ("2", "3")
    assert (once["autorestart"], mostly["autorestart"]) == ("false", "unexpected")
    assert once["startretries"] == "0"
    assert once["stopasgroup"] == "true"


def test_users_are_named_for_root_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert rendered(PROGRAM)["program:engine"]["user"] == "fedpref-engine"
    assert rendered(PROGRAM)["supervisord"]["user"] == "root"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "user" not in rendered(PROGRAM)["program:engine"]
    assert "user" not in rendered(PROGRAM)["supervisord"]


def test_what_supervisord_would_expand_is_escaped() -> None:
    program = replace(PROGRAM, environment={"URL": "postgresql://u:p%40s@db/%(ENV_HOME)s"})
    assert "p%%40s@db/%%(ENV_HOME)s" in rendered(program)["program:engine"]["environment"]


@pytest.mark.parametrize(
    "program",
    [
        replace(PROGRAM, environment={"A": 'x",B="y'}),
        replace(PROGRAM, environment={"A": "x\ncommand = /bin/sh"}),
        replace(PROGRAM, environment={"A": "x\\"}),
        replace(PROGRAM, environment={"a=b": "x"}),
        replace(PROGRAM, environment={"A": "x ;y"}),
        replace(PROGRAM, command=("/bin/true", "x\ncommand = /bin/sh")),
        replace(PROGRAM, command=("true",)),
        replace(PROGRAM, command=()),
        replace(PROGRAM, name="Engine"),
        replace(PROGRAM, name="engine]\n[program:sh"),
        replace(PROGRAM, directory=Path("/srv/a\nb")),
    ],
)
def test_what_could_say_more_than_was_meant_is_refused(program: Program) -> None:
    with pytest.raises(InputError):
        rendered(program)


def test_two_programs_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="same name"):
        rendered(PROGRAM, PROGRAM)


@given(st.text(min_size=1, max_size=20))
def test_a_value_comes_through_as_it_was_or_is_refused(value: str) -> None:
    try:
        section = rendered(replace(PROGRAM, environment={"A": value}))["program:engine"]
    except InputError:
        return
    assert section["environment"].replace("%%", "%") == f'A="{value}"'


@given(st.text(max_size=10))
def test_a_name_is_one_of_a_file_too(name: str) -> None:
    try:
        require_name(name)
    except InputError:
        return
    assert Path(f"{name}.log").name == f"{name}.log"
    assert name == name.lower()
