"""What went over the wire in a trial, kept to be sent again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.canonical_json import JsonValue
from common.parameters import load_arrays, save_arrays

Header = dict[str, JsonValue]
Arrays = Mapping[str, np.ndarray]
_MAX_BYTES = 1 << 30
_LENGTH_BYTES = 8


class Recordings:
    """A folder of train requests and replies, by region and round.

    Args:
        folder: It is made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def keep(
        self, what: str, region: str, server_round: int, header: Header, arrays: Arrays
    ) -> None:
        """Keeps a ``request`` or a ``reply``, the newest of its round."""
        head = json.dumps(header).encode()
        body = save_arrays(arrays) if arrays else b""
        path = self._path(what, region, server_round)
        beside = path.with_suffix(".tmp")
        beside.write_bytes(len(head).to_bytes(_LENGTH_BYTES, "big") + head + body)
        beside.replace(path)

    def read(self, what: str, region: str, server_round: int) -> tuple[Header, Arrays] | None:
        """Reads one back, or None if there was none."""
        path = self._path(what, region, server_round)
        if not path.exists():
            return None
        data = path.read_bytes()
        start = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "big")
        body = data[start:]
        header: Header = json.loads(data[_LENGTH_BYTES:start])
        return header, load_arrays(body, max_bytes=_MAX_BYTES) if body else {}

    def _path(self, what: str, region: str, server_round: int) -> Path:
        return self._folder / f"{what}-{region}-{server_round}"
