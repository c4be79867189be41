"""By what references kept tables know a customer: the region's own, or a channel's keys."""

from __future__ import annotations

from client.data.tables.declaration import GradedTable, declared_tables
from client.engine.home import RegionHome
from client.governance.column_store import ColumnStore


def channel_keys_of(home: RegionHome, customer_ref: str) -> dict[str, frozenset[str]]:
    """What kept tables call one customer, where it is not the region's reference: by table.

    A table is there if a declaration reads the column that says whom its rows are about as a
    channel's keys. Then the region's own reference is none of them, unless it is declared so, too:
    the same text may be somebody else's key. A key that is given to several customers is nobody's:
    its rows are not known to be hers.

    Args:
        home: The region's home.
        customer_ref: The region's reference of the customer.

    Raises:
        InputError: The declaration or the table of keys cannot be read.
        StorageError: What is kept cannot be read.
    """
    declared = declared_tables(home)
    kept = [
        each for places in declared.values() for each in places if isinstance(each, GradedTable)
    ]
    if all(each.channel is None for each in kept):
        return {}
    from client.data.tables.reading import RegionTables  # Slow to import; most regions need none.

    tables = ColumnStore(home).manifest().tables
    about = {name: table.subject for name, table in tables.items() if table.subject is not None}
    keys = RegionTables(declared).keys()
    found: dict[str, set[str]] = {}
    references = set[str]()
    for each in kept:
        if about.get(each.table) != each.columns.get("customer", ""):
            continue
        if each.channel is None:
            references.add(each.table)
            continue
        known = {} if keys is None else keys.known.get(each.channel, {})
        own = {key for key, customer in known.items() if customer == customer_ref}
        found.setdefault(each.table, set()).update(own)
    for name in references & found.keys():
        found[name].add(customer_ref)
    return {name: frozenset(own) for name, own in found.items()}
