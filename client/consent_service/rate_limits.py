"""How much one customer, and one address, may ask for: moving windows, in memory.

Customers and addresses are kept as keyed hashes, for as long as a window lasts.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import time
from ipaddress import IPv6Address, ip_address

from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from client.consent_service.config import LimitSettings
from client.consent_service.problems import ProblemError

_IPV6_NETWORK_BITS = 64


class RateLimits:
    """The limits of one process."""

    def __init__(self, settings: LimitSettings) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._salt = secrets.token_bytes(16)
        self._of_address = RateLimitItemPerMinute(settings.requests_per_minute)
        self._logins = RateLimitItemPerMinute(settings.logins_per_minute, namespace="LOGIN")
        self._reads = RateLimitItemPerMinute(settings.reads_per_minute, namespace="READ")
        self._changes = RateLimitItemPerHour(settings.changes_per_hour, namespace="CHANGE")

    def count_request(self, address: str) -> None:
        """Counts any request of an address.

        Raises:
            ProblemError: It has made too many.
        """
        self._count(self._of_address, _network(address))

    def count_login(self, address: str) -> None:
        """Counts a login that an address tries; `ProblemError` if there were too many."""
        self._count(self._logins, _network(address))

    def count_read(self, customer_ref: str) -> None:
        """Counts what a customer asks for; `ProblemError` if it is too much."""
        self._count(self._reads, customer_ref)

    def count_change(self, customer_ref: str) -> None:
        """Counts a choice of a customer's; `ProblemError` if there were too many.

        Withdrawing everything is not counted: nobody has to wait for that, and it is logged only
        after a consent, which was counted.
        """
        self._count(self._changes, customer_ref)

    def _count(self, item: RateLimitItem, who: str) -> None:
        name = hashlib.blake2s(who.encode(), key=self._salt).hexdigest()
        if not self._limiter.hit(item, name):
            until_s = self._limiter.get_window_stats(item, name).reset_time - time.time()
            wait_s = max(1, math.ceil(until_s))
            raise ProblemError("too-many-requests", headers={"Retry-After": str(wait_s)})


def _network(address: str) -> str:
    """The address; of IPv6 the network, as one line has more addresses than can be counted."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(int(parsed) >> (128 - _IPV6_NETWORK_BITS))
    return address
