"""Numbers for keys of one length, in little memory: some 10 bytes beside each key."""

from __future__ import annotations

from array import array

_FIRST_SLOTS = 1 << 10
# Linear probing stays short while no more than this share of the slots is taken.
_FULL = 0.6


class NumberedKeys:
    """Keys of one length, numbered 0, 1, … in the order in which they were added.

    An open-addressing table of numbers over one array of keys. Slots follow from Python's own keyed
    hash of bytes: who chooses the keys cannot choose where they collide.

    Args:
        key_bytes: The length of every key.
    """

    def __init__(self, key_bytes: int) -> None:
        self._key_bytes = key_bytes
        self._keys = bytearray()
        self._slots = array("I", bytes(4 * _FIRST_SLOTS))
        self._mask = _FIRST_SLOTS - 1

    def __len__(self) -> int:
        return len(self._keys) // self._key_bytes

    def __getitem__(self, number: int) -> bytes:
        """The key of a number."""
        start = self._key_bytes * number
        return bytes(self._keys[start : start + self._key_bytes])

    def find(self, key: bytes) -> int | None:
        """The number of a key; None if it was not added."""
        slot, length = hash(key) & self._mask, self._key_bytes
        # A slot holds a number plus one; 0 is free.
        while taken := self._slots[slot]:
            start = length * (taken - 1)
            if self._keys[start : start + length] == key:
                return taken - 1
            slot = (slot + 1) & self._mask
        return None

    def add(self, key: bytes) -> int:
        """Numbers a key that was not added before."""
        number = len(self)
        self._keys += key
        if number + 1 > _FULL * len(self._slots):
            self._grow()
        self._place(key, number)
        return number

    def _place(self, key: bytes, number: int) -> None:
        slot = hash(key) & self._mask
        while self._slots[slot]:
            slot = (slot + 1) & self._mask
        self._slots[slot] = number + 1

    def _grow(self) -> None:
        slots = 2 * len(self._slots)
        self._slots = array("I", bytes(4 * slots))
        self._mask = slots - 1
        for number in range(len(self) - 1):
            self._place(self[number], number)
