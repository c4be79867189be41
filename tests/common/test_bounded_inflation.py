"""No array is inflated beyond the limit, alone or with others; flwr is the version patched."""

from __future__ import annotations

import tracemalloc

import flwr
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from common.bounded_inflation import OVERSIZE_STYPE, bounded_inflation
from tests.support.flower_messages import request


def test_flower_is_the_version_whose_internals_are_patched() -> None:
    assert flwr.__version__.startswith("1.41.")


def contents_of(message: Message) -> dict[str, bytes]:
    """What Flower stores for a message, object by object."""
    objects: dict[str, InflatableObject] = get_all_nested_objects(message)
    return {name: each.deflate() for name, each in objects.items()}


def bomb(repeats: int) -> tuple[str, dict[str, bytes]]:
    """A message whose array names one chunk of 1 MiB many times; on the wire it is one."""
    chunk = b"\0" * (1 << 20)
    message = request({})
    record = ArrayRecord({"x": Array("float32", (1,), "numpy.ndarray", chunk)})
    (one,) = record["x"].slice_array()
    record["x"].__dict__["_chunks"] = [one] * repeats
    message.content = RecordDict({"arrays": record})
    contents = contents_of(message)
    assert sum(map(len, contents.values())) < 2 << 20
    return message.object_id, contents


def test_a_chunk_bomb_stays_as_small_as_it_was_sent() -> None:
    name, contents = bomb(400)
    tracemalloc.start()
    with bounded_inflation(4 << 20):
        message = inflate_object_from_contents(name, contents)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(message, Message)
    array = message.content.array_records["arrays"]["x"]
    assert (array.stype, array.data) == (OVERSIZE_STYPE, b"")
    assert peak < 8 << 20


def test_without_the_bound_flower_inflates_a_bomb() -> None:
    name, contents = bomb(40)
    message = inflate_object_from_contents(name, contents)
    assert isinstance(message, Message)
    assert len(message.content.array_records["arrays"]["x"].data) == 40 << 20


def test_within_the_bound_arrays_are_inflated_as_ever_and_the_patch_is_undone() -> None:
    plain = vars(Array)["inflate"].__func__
    array = np.arange(300_000, dtype="<f4")
    message = request({"a": 1}, {"x": array})
    contents, name = contents_of(message), message.object_id
    with bounded_inflation(4 << 20):
        assert vars(Array)["inflate"].__func__ is not plain
        inflated = inflate_object_from_contents(name, contents)
    assert isinstance(inflated, Message)
    np.testing.assert_array_equal(inflated.content.array_records["arrays"]["x"].numpy(), array)
    with pytest.raises(ZeroDivisionError), bounded_inflation(1):
        raise ZeroDivisionError
    assert vars(Array)["inflate"].__func__ is plain


def test_arrays_that_are_each_within_the_bound_are_not_so_together() -> None:
    arrays = {name: np.ones(1000, "<f4") for name in ("a", "b", "c")}
    for at, values in enumerate(arrays.values()):
        values *= at
    message = request({}, arrays)
    contents, name = contents_of(message), message.object_id
    with bounded_inflation(5000, max_total_bytes=9000):
        inflated = inflate_object_from_contents(name, contents)
    assert isinstance(inflated, Message)
    kinds = [array.stype for array in inflated.content.array_records["arrays"].values()]
    assert kinds == ["numpy.ndarray", "numpy.ndarray", OVERSIZE_STYPE]
