"""Messages out, replies in, over Flower's Grid: each wait bounded, no reply able to harm another.

Flower's own ``send_and_receive`` pulls all replies at once: one whose body cannot be inflated
aborts the run. Here replies are pulled one by one, and `common.bounded_inflation` says how large
each may become. Beside it this module is the server's only touch of Flower's internals (pinned to
flwr 1.41, see its test).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, runtime_checkable

from flwr.app import Error, Message
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import UnexpectedObjectContentError
from flwr.superlink.grid import http_grid
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # no stubs

from common.errors import FederationError

#: The code of the error reply that stands for one whose body is not what Flower sends.
UNDECODABLE_REPLY = 1000

_FIRST_PAUSE_S = 0.002
_PAUSE_PER_PENDING_S = 0.02
_MAX_PAUSE_S = 1.0
#: A reply is announced before its objects are there. Flower looks again after 1, 2, 4 … 10 seconds.
_FIRST_LOOK_S, _LAST_LOOK_S = 0.1, 1.0
_HOSTILE_BODY = (
    UnexpectedObjectContentError,
    DecodeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    RecursionError,
    OverflowError,
)


@runtime_checkable
class AnnouncingGrid(Protocol):
    """A Grid that can say which replies have arrived; others are asked for each, again and again.

    Flower's own is asked over the network.
    """

    def arrived(self, message_ids: Collection[str], *, timeout_s: float) -> list[str]:
        """Waits until a reply to any of these messages is there, and gives which have one.

        Args:
            message_ids: Sent messages whose replies were not pulled yet.
            timeout_s: For how long to wait at most, in seconds; then there may be none.
        """


def exchange(grid: Grid, messages: Sequence[Message], *, timeout_s: float) -> Iterator[Message]:
    """Sends messages and gives each reply as it arrives.

    Args:
        grid: Flower's connection to the nodes.
        messages: What to send; their ids are set when this sends them.
        timeout_s: For how long to wait, in seconds, for all replies together.

    Yields:
        Replies in the order of arrival; a reply that cannot be read is an error message of code
        `UNDECODABLE_REPLY`. Messages without a reply in time are passed over in silence.
    """
    pending = push(grid, messages)
    deadline = time.monotonic() + timeout_s
    pause_s = _FIRST_PAUSE_S
    expected: Collection[str] = list(pending)
    while pending:
        arrived = False
        for message_id in expected:
            replies = pull(grid, pending[message_id])
            if replies:
                arrived = True
                del pending[message_id]
            while replies:
                # Handed over and not kept: a reply may be as large as the model.
                yield replies.pop(0)
        remaining_s = deadline - time.monotonic()
        if not pending or remaining_s <= 0:
            return
        if isinstance(grid, AnnouncingGrid):
            expected = grid.arrived(pending, timeout_s=remaining_s)
            continue
        # The pause grows to what a store with many nodes can bear, not beyond a second.
        longest_s = min(_MAX_PAUSE_S, max(0.05, _PAUSE_PER_PENDING_S * len(pending)))
        pause_s = _FIRST_PAUSE_S if arrived else min(2 * pause_s, longest_s)
        time.sleep(min(pause_s, remaining_s))
        expected = list(pending)


def push(grid: Grid, messages: Sequence[Message]) -> dict[str, Message]:
    """Sends messages and gives those that were accepted, by the id each now has."""
    accepted = set(grid.push_messages(list(messages)))
    return {
        message.metadata.message_id: message
        for message in messages
        if message.metadata.message_id in accepted
    }


def pull(grid: Grid, message: Message) -> list[Message]:
    """The replies to one sent message that have arrived; usually none or one."""
    try:
        return list(grid.pull_messages([message.metadata.message_id]))
    except _HOSTILE_BODY:
        return [Message(Error(code=UNDECODABLE_REPLY), reply_to=message)]


@contextmanager
def bounded_superlink(grid: Grid, *, timeout_s: float) -> Iterator[None]:
    """Keeps Flower from waiting without end, or for hours, for its SuperLink.

    By itself it tries for ever to reach one that is gone, and for two hours to get the content of a
    reply that a node announced and never sent: whoever does that would hold up all others.

    Args:
        grid: Flower's connection; one that reaches no SuperLink is left as it is.
        timeout_s: For how long either may take, in seconds.

    Raises:
        FederationError: The SuperLink could not be reached for so long.
    """
    retries: Any = getattr(grid, "_retry_invoker", None)
    # Flower does not call it a part of the module, whose code takes it from there.
    pulling: Any = http_grid
    plain = pulling.pull_objects
    lost = () if retries is None else tuple(retries.recoverable_exceptions)
    if retries is not None:
        retries.max_time = timeout_s
    pulling.pull_objects = partial(
        plain,
        max_time=timeout_s,
        max_tries_per_object=None,
        initial_backoff=_FIRST_LOOK_S,
        backoff_cap=_LAST_LOOK_S,
    )
    try:
        yield
    except lost as error:
        raise FederationError(
            f"The SuperLink could not be reached for {timeout_s:g} s: {type(error).__name__}.",
            remedy="Start it, or its network; `fedpref-server resume` then goes on from here.",
        ) from error
    finally:
        pulling.pull_objects = plain
