from __future__ import annotations

import json
from pathlib import Path

import pytest

from client.training.keystream import AesCtrStream, ChaCha20Stream

VECTORS = Path(__file__).parents[2] / "vectors"
CHACHA20 = json.loads((VECTORS / "chacha20" / "rfc8439.json").read_text())["vectors"]
AES_CTR = json.loads((VECTORS / "aes-ctr" / "sp800-38a.json").read_text())


@pytest.mark.parametrize("vector", CHACHA20, ids=lambda vector: vector["name"])
def test_chacha20_is_that_of_rfc_8439(vector: dict[str, str]) -> None:
    stream = ChaCha20Stream(
        bytes.fromhex(vector["key"]), bytes.fromhex(vector["nonce"]), int(vector["counter"])
    )
    expected = bytes.fromhex(vector["keystream"])
    assert stream.read(10) + stream.read(54) == expected


@pytest.mark.parametrize("lengths", [(64,), (16, 48), (5, 27, 32)])
def test_aes_ctr_is_that_of_sp_800_38a(lengths: tuple[int, ...]) -> None:
    stream = AesCtrStream(bytes.fromhex(AES_CTR["key"]), bytes.fromhex(AES_CTR["counter"]))
    read = b""
    for length in lengths:
        buffer = bytearray(length + 15)
        stream.read_into(buffer, bytes(length))
        read += buffer[:length]
    plaintext, ciphertext = (bytes.fromhex(AES_CTR[name]) for name in ("plaintext", "ciphertext"))
    assert bytes(a ^ b for a, b in zip(read, plaintext, strict=True)) == ciphertext
