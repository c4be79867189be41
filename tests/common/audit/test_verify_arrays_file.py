"""The model file's digest against the one its writer computes, and malformed files."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from common.audit.verify.arrays_file import file_arrays_digest
from common.errors import FormatError, InputError
from common.parameters import arrays_digest, save_arrays


def _write(path: Path, header: Any, data: bytes) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_the_digest_is_the_writers(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    arrays = {
        "b": generator.normal(size=(5, 3)).astype("<f4"),
        "a": generator.normal(size=7).astype("<f8"),
        "ids": np.arange(4, dtype="<i8"),
        "small": np.arange(6, dtype="<i4").reshape(1, 2, 3),
        "empty": np.zeros((0, 4), dtype="<f4"),
    }
    path = tmp_path / "model.safetensors"
    path.write_bytes(save_arrays(arrays))
    assert file_arrays_digest(path) == arrays_digest(arrays)
    path.write_bytes(save({"b": arrays["b"], "a": arrays["a"]}, metadata={"note": "x"}))
    assert file_arrays_digest(path) == arrays_digest({"a": arrays["a"], "b": arrays["b"]})


def test_a_large_array_is_read_in_pieces(tmp_path: Path) -> None:
    arrays = {"x": np.arange(600_000, dtype="<f4")}
    path = tmp_path / "model.safetensors"
    path.write_bytes(save_arrays(arrays))
    assert file_arrays_digest(path) == arrays_digest(arrays)


_GOOD = {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (b"", b""),
        (b"{", b""),
        (b"[]", b""),
        (b"[" * 100_000, b""),
        (b'{"x":1}', b""),
        (
            b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
            b'"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
            b"01234567",
        ),
        (b'{"x":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', b"01234567"),
        ({"x": {**_GOOD["x"], "dtype": "BF16"}}, b"01234567"),
        ({"x": {**_GOOD["x"], "dtype": 7}}, b"01234567"),
        ({"x": {**_GOOD["x"], "dtype": ["F32"]}}, b"01234567"),
        ({"x": {**_GOOD["x"], "shape": [-2]}}, b"01234567"),
        ({"x": {**_GOOD["x"], "shape": 2}}, b"01234567"),
        ({"x": {**_GOOD["x"], "shape": [True, 2]}}, b"01234567"),
        ({"x": {**_GOOD["x"], "data_offsets": [0]}}, b"01234567"),
        ({"x": {**_GOOD["x"], "data_offsets": [0, 8, 8]}}, b"01234567"),
        ({"x": {**_GOOD["x"], "data_offsets": [8, 0]}}, b"01234567"),
        ({"x": {**_GOOD["x"], "data_offsets": [4, 12]}}, b"012345678901"),
        ({"x": {**_GOOD["x"], "more": 1}}, b"01234567"),
        (_GOOD, b"0123456"),
        (_GOOD, b"012345678"),
        ({**_GOOD, "y": _GOOD["x"]}, b"01234567"),
        ({"ä": _GOOD["x"] | {"shape": [3]}}, b"01234567"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, header: Any, data: bytes) -> None:
    with pytest.raises(FormatError):
        file_arrays_digest(_write(tmp_path / "x", header, data))


@pytest.mark.parametrize("content", [b"", b"\x00", b"\xff" * 16, struct.pack("<Q", 2**63)])
def test_files_without_a_header_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(FormatError):
        file_arrays_digest(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "x", _GOOD, b"01234567")
    assert file_arrays_digest(tmp_path / "x")
    (tmp_path / "link").symlink_to(tmp_path / "x")
    for name in ("missing", "link", "."):
        with pytest.raises(InputError):
            file_arrays_digest(tmp_path / name)
