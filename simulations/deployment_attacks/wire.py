"""What an attacker's process takes and gives: JSON, with arrays as base64."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from simulations.deployment_attacks.outcome import Found


def packed(array: np.ndarray) -> Found:
    """An array as JSON."""
    contiguous = np.ascontiguousarray(array)
    return {
        "dtype": contiguous.dtype.str,
        "shape": list(array.shape),
        "content": base64.b64encode(contiguous.tobytes()).decode(),
    }


def unpacked(record: Mapping[str, Any]) -> np.ndarray:
    """The array that `packed` made a record of."""
    content = base64.b64decode(record["content"])
    return np.frombuffer(content, dtype=np.dtype(record["dtype"])).reshape(record["shape"])


def content_of(ask: Mapping[str, Any]) -> RecordDict:
    """The content of a message as an attack's script has it.

    Args:
        ask: ``records`` has configuration records by name, ``arrays`` the arrays of one record,
            ``metrics`` the numbers of another.
    """
    records: dict[str, ConfigRecord | ArrayRecord | MetricRecord] = {
        name: ConfigRecord(
            {key: value.encode() if name == "header" else value for key, value in record.items()}
        )
        for name, record in ask.get("records", {}).items()
    }
    records["arrays"] = ArrayRecord(
        {name: Array(unpacked(each)) for name, each in ask.get("arrays", {}).items()}
    )
    if "metrics" in ask:
        records["metrics"] = MetricRecord(ask["metrics"])
    return RecordDict(records)


def answer_of(message: Message, node: str) -> Found:
    """What came back from a node, as JSON."""
    if message.has_error():
        return {"node": node, "error": message.error.reason, "code": message.error.code}
    content = message.content
    return {
        "node": node,
        "arrays": {
            name: packed(array.numpy())
            for record in content.array_records.values()
            for name, array in record.items()
        },
        "records": {
            name: {key: _plain(value) for key, value in record.items()}
            for name, record in content.config_records.items()
        },
    }


def read_json(text: str) -> Found:
    """A JSON object.

    Raises:
        ValueError: It is none.
    """
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _plain(value: object) -> object:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
