"""The outside witnesses of a run: addresses in the coordinator's home, or ones in this process."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from common.audit.witness.channel import WitnessChannel
from common.audit.witness.http_client import HttpWitness
from common.errors import InputError
from server.config import ServerHome

_MAX_WITNESSES = 32

_offered: dict[ServerHome, Mapping[str, WitnessChannel]] = {}
_lock = threading.Lock()


@contextmanager
def offer_witnesses(home: ServerHome, channels: Mapping[str, WitnessChannel]) -> Iterator[None]:
    """Lets the coordinator of a home, in this process, reach witnesses in it; for simulations.

    Args:
        home: The coordinator's home.
        channels: The witnesses by name.

    Raises:
        InputError: The home has been offered some already.
    """
    home = _resolved(home)
    with _lock:
        if home in _offered:
            raise InputError(f"The coordinator of {home.root} has witnesses in this process.")
        _offered[home] = dict(channels)
    try:
        yield
    finally:
        with _lock:
            del _offered[home]


def outside_witnesses(home: ServerHome, *, timeout_s: float) -> dict[str, WitnessChannel]:
    """The outside witnesses by name or address; a home without ``witnesses.json`` lists none.

    Args:
        home: The coordinator's home.
        timeout_s: For how long one may take for each answer, in seconds.

    Raises:
        InputError: The list is malformed, or has something that is no witness's address.
    """
    with _lock:
        channels = dict(_offered.get(_resolved(home), {}))
    addresses = _read_addresses(home)
    return channels | {url: HttpWitness(url, timeout_s=timeout_s) for url in addresses}


def _read_addresses(home: ServerHome) -> list[str]:
    try:
        addresses = json.loads(home.witnesses.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise InputError(
            f"The list of witnesses {home.witnesses} cannot be read: {error}.",
            remedy='Write the addresses as a JSON list: ["https://witness.example"].',
        ) from error
    well_formed = isinstance(addresses, list) and all(isinstance(each, str) for each in addresses)
    if not well_formed or len(addresses) > _MAX_WITNESSES:
        raise InputError(
            f"{home.witnesses} is not a list of at most {_MAX_WITNESSES} addresses.",
            remedy='Write the addresses as a JSON list: ["https://witness.example"].',
        )
    return [str(each) for each in addresses]


def _resolved(home: ServerHome) -> ServerHome:
    return ServerHome(home.root.resolve())
