"""Victims and attackers are processes of their own; what breaks in one is told, not lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from common.errors import FederationError, InputError
from simulations.attack_demos.processes import Arrays, Header, Host, Reply, as_attacker, victims
from simulations.attack_demos.users import are_distinct, attacker, let_pass, victims_users


def host(answer: object) -> Host:
    return lambda serve: serve(answer)  # type: ignore[arg-type]


def who(method: str, header: Header, arrays: Arrays) -> Reply:
    return {"pid": os.getpid(), "method": method, **header}, dict(arrays)


def refuse(method: str, header: Header, arrays: Arrays) -> Reply:
    raise InputError(f"no {method}")


def test_everybody_is_a_process_and_what_is_sent_arrives() -> None:
    values = np.arange(3, dtype=np.float32)
    with victims({"a": host(who), "b": host(who)}) as lines:

        def attack() -> dict[str, object]:
            answers = [line.call("ask", {"x": 1}, {"v": values}) for line in lines.values()]
            assert all(np.array_equal(arrays["v"], values) for _, arrays in answers)
            return {"pids": [os.getpid(), *(header["pid"] for header, _ in answers)]}

        pids = as_attacker(attack)["pids"]
    assert len({os.getpid(), *pids}) == 4


def test_an_attacker_with_a_user_of_its_own_cannot_read_a_victims_home() -> None:
    with tempfile.TemporaryDirectory() as work:
        let_pass(Path(work))
        home = Path(work) / "home"
        home.mkdir()
        (home / "key").write_text("secret")
        victims_users(["victim"])["victim"].own(home)

        def steal() -> dict[str, object]:
            try:
                return {"got": (home / "key").read_text()}
            except PermissionError:
                return {"got": None}

        def answer(method: str, header: Header, arrays: Arrays) -> Reply:
            return {**steal(), "user": os.geteuid()}, {}  # type: ignore[dict-item]

        with victims({"victim": host(answer)}) as lines:
            own, _ = lines["victim"].call("read", {}, {})
        found = as_attacker(lambda: {**steal(), "user": os.geteuid()})
    assert own["got"] == "secret"
    # Under one user it is there for the taking: that is what the users are for.
    assert found["got"] == (None if are_distinct() else "secret")
    assert (found["user"] != own["user"]) == are_distinct()


def test_a_victim_that_fails_is_named_to_the_attacker() -> None:
    with victims({"a": host(refuse)}) as lines, pytest.raises(FederationError, match="no ask"):
        lines["a"].call("ask", {}, {})


def test_a_victim_that_does_not_start_is_reported() -> None:
    def broken(_: object) -> None:
        raise InputError("nothing to open")

    with pytest.raises(FederationError, match="nothing to open"), victims({"a": broken}):
        pass


def test_an_attacker_that_breaks_is_reported() -> None:
    def attack() -> dict[str, object]:
        raise ZeroDivisionError

    with pytest.raises(FederationError, match="ZeroDivisionError"):
        as_attacker(attack)


def test_two_at_work_on_one_machine_share_no_users() -> None:
    program = (
        "from simulations.attack_demos.users import attacker, victims_users\n"
        "users = [attacker(), *victims_users('abc').values()]\n"
        "print([user.number for user in users])"
    )
    ours = [attacker(), *victims_users("abc").values()]
    theirs = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    if are_distinct():
        assert len({*json.loads(theirs), *(user.number for user in ours)}) == 8
        assert [user.number for user in ours] == [
            user.number for user in (attacker(), *victims_users("abc").values())
        ]
    else:
        assert theirs.strip() == "[None, None, None, None]"
