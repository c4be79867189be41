"""What attackers' processes take and give survives the way."""

from __future__ import annotations

import json

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from simulations.deployment_attacks.wire import (
    answer_of,
    content_of,
    packed,
    read_json,
    unpacked,
)
from simulations.in_process_grid import task_identity

_DTYPES = st.sampled_from([np.uint8, np.int32, np.float32, np.float64])


@given(arrays.arrays(_DTYPES, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0)))
def test_arrays_come_back_as_they_were(array: np.ndarray) -> None:
    back = unpacked(json.loads(json.dumps(packed(array))))
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


def test_a_message_s_content_and_its_answer_are_plain_json() -> None:
    ask = {
        "records": {"header": {"json": '{"a":1}'}, "wanted": {"paths": "[]"}},
        "arrays": {"popularity": packed(np.arange(3.0))},
        "metrics": {"num-examples": 2},
    }
    with task_identity():
        asked = Message(content_of(ask), 7, "query")
        answer = answer_of(asked, "north")
    assert asked.content["header"]["json"] == b'{"a":1}'
    assert asked.content["metrics"]["num-examples"] == 2
    assert answer["node"] == "north"
    assert answer["records"]["header"]["json"] == '{"a":1}'
    assert unpacked(answer["arrays"]["popularity"]).tolist() == [0.0, 1.0, 2.0]
    json.dumps(answer)


def test_an_error_is_told_as_one() -> None:
    with task_identity():
        asked = Message(RecordDict(), 7, "query")
        failed = Message(Error(code=3, reason="it broke"), reply_to=asked)
        assert answer_of(failed, "south") == {"node": "south", "error": "it broke", "code": 3}


def test_a_request_is_an_object() -> None:
    assert read_json('{"action": "flood"}') == {"action": "flood"}
    with pytest.raises(ValueError, match="not an object"):
        read_json("[]")
