"""Keeps Flower from making more of a message than was sent: a limit where arrays are put together.

Flower stores an array as chunks, each once, and a list of which chunk comes where; the list is the
sender's, and an array that names one chunk a thousand times becomes a thousand times what was sent.
This module patches Flower (pinned to flwr 1.41 by ``tests/common/test_bounded_inflation.py``).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flwr.app import Array
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_object_body,
    get_object_children_ids_from_object_content,
)

#: The ``stype`` of an array that was not inflated.
OVERSIZE_STYPE = "fedpref.oversize"

_inflation_lock = threading.Lock()


@contextmanager
def bounded_inflation(max_bytes: int, *, max_total_bytes: int | None = None) -> Iterator[None]:
    """Keeps Flower from inflating arrays to more than a number of bytes, while the body runs.

    An array over the limit comes out empty, with `OVERSIZE_STYPE` for its ``stype``.

    Args:
        max_bytes: The most bytes one array's body may have.
        max_total_bytes: The most that all arrays inflated within the body may have; None for any.
    """
    plain: Any = vars(Array)["inflate"].__func__
    inflated_bytes = 0

    def inflate(
        cls: type[Array],
        object_content: bytes,
        children: dict[str, InflatableObject] | None = None,
    ) -> Array:
        nonlocal inflated_bytes
        size = _inflated_bytes(cls, object_content, children or {})
        inflated_bytes += size
        over = max_total_bytes is not None and inflated_bytes > max_total_bytes
        if size > max_bytes or over:
            return cls(dtype="", shape=(), stype=OVERSIZE_STYPE, data=b"")
        inflated = plain(cls, object_content, children)
        if not isinstance(inflated, Array):
            raise TypeError("an array inflates to an array")
        return inflated

    with _inflation_lock:
        Array.inflate = classmethod(inflate)  # type: ignore[assignment, method-assign]  # a patch
        try:
            yield
        finally:
            Array.inflate = classmethod(plain)  # type: ignore[assignment, method-assign]


def _inflated_bytes(
    cls: type[Array], object_content: bytes, children: dict[str, InflatableObject]
) -> int:
    body = json.loads(get_object_body(object_content, cls).decode("utf-8"))
    ids = get_object_children_ids_from_object_content(object_content)
    sizes = [len(getattr(children.get(name), "data", b"")) for name in ids]
    return sum(sizes[place] for place in body["arraychunk_ids"])
