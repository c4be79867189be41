"""Users by name and number, and who may be at the other end."""

from __future__ import annotations

import os
import pwd
import socket

import pytest

from common.errors import InputError
from common.peers import Peers, group_id, peer_user, user_id


def test_a_user_is_a_name_or_a_number() -> None:
    me = pwd.getpwuid(os.geteuid())
    assert user_id(me.pw_name) == user_id(str(me.pw_uid)) == os.geteuid()
    assert user_id("61234") == 61234
    assert group_id("61234") == 61234
    assert group_id(str(me.pw_gid)) == me.pw_gid


@pytest.mark.parametrize("name", ["", "no-such-user", "-1", "1.0", "٣", "4294967295", "1" * 11])
def test_what_is_no_user_is_refused(name: str) -> None:
    for find in (user_id, group_id):
        with pytest.raises(InputError, match="There is no"):
            find(name)


def test_ones_own_user_is_always_admitted_and_nobody_by_accident() -> None:
    peers = Peers.with_own(["61001"])
    assert peers.admit(os.geteuid())
    assert peers.admit(61001)
    assert not peers.admit(61002)
    assert not Peers.own().admit(61001)
    assert Peers.own().users == {os.geteuid()}


def test_the_kernel_says_who_is_there() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert peer_user(one) == peer_user(other) == os.geteuid()
