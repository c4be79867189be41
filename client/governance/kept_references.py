"""By what references kept tables know a customer: the region's own, or a channel's keys."""

from __future__ import annotations

from client.data.tables.declaration import GradedTable, declared_tables
from client.engine.home import RegionHome


def channel_keys_of(home: RegionHome, customer_ref: str) -> dict[str, frozenset[str]]:
    """Of each kept table that a channel's keys tell customers apart in, those of one customer.

    A key that is given to several customers is nobody's: its rows are not known to be hers.

    Args:
        home: The region's home.
        customer_ref: The region's reference of the customer.

    Raises:
        InputError: The declaration or the table of keys cannot be read.
    """
    declared = declared_tables(home)
    channels = [
        (each.table, each.channel)
        for places in declared.values()
        for each in places
        if isinstance(each, GradedTable) and each.channel is not None
    ]
    if not channels:
        return {}
    from client.data.tables.reading import RegionTables  # Slow to import; most regions need none.

    keys = RegionTables(declared).keys()
    if keys is None:
        return {}
    found: dict[str, frozenset[str]] = {}
    for table, channel in channels:
        known = keys.known.get(channel, {})
        own = frozenset(key for key, customer in known.items() if customer == customer_ref)
        found[table] = found.get(table, frozenset()) | own
    return found
