"""Writes the Merkle vectors of this folder: `python tests/vectors/merkle/generate.py`.

The leaves are those of Certificate Transparency's tests, whose roots are published; proofs come
from a word-for-word reading of RFC 6962, 2.1.1 and 2.1.2, which shares no code with the product.
Each valid proof is followed by forgeries that must be refused.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

LEAVES = [
    b"",
    b"\x00",
    b"\x10",
    b"\x20\x21",
    b"\x30\x31",
    b"\x40\x41\x42\x43",
    b"\x50\x51\x52\x53\x54\x55\x56\x57",
    b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
]
GARBAGE = b"\xa5" * 32

Case = dict[str, object]


def split(n):
    """The largest power of two smaller than n."""
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def mth(data):
    """MTH(D[n])."""
    if not data:
        return hashlib.sha256(b"").digest()
    if len(data) == 1:
        return hashlib.sha256(b"\x00" + data[0]).digest()
    k = split(len(data))
    return hashlib.sha256(b"\x01" + mth(data[:k]) + mth(data[k:])).digest()


def path(m, data):
    """PATH(m, D[n])."""
    if len(data) == 1:
        return []
    k = split(len(data))
    if m < k:
        return [*path(m, data[:k]), mth(data[k:])]
    return [*path(m - k, data[k:]), mth(data[:k])]


def proof(m, data):
    """PROOF(m, D[n])."""
    return subproof(m, data, whole=True)


def subproof(m, data, *, whole):
    """SUBPROOF(m, D[n], b)."""
    if m == len(data):
        return [] if whole else [mth(data)]
    k = split(len(data))
    if m <= k:
        return [*subproof(m, data[:k], whole=whole), mth(data[k:])]
    return [*subproof(m - k, data[k:], whole=False), mth(data[:k])]


def flip(value, bit):
    return bytes([*value[:-1], value[-1] ^ (1 << bit)])


def proof_forgeries(steps, *roots):
    """Changes of a proof's parts: garbage and roots around it, one bit, one step less or more."""
    for name, extra in [("garbage", GARBAGE), *((f"root {i}", r) for i, r in enumerate(roots))]:
        yield f"{name} before", [extra, *steps]
        yield f"{name} after", [*steps, extra]
    for at, step in enumerate(steps):
        yield f"bit of step {at}", [*steps[:at], flip(step, 3), *steps[at + 1 :]]
        yield f"step {at} twice", [*steps[: at + 1], *steps[at:]]
        yield f"step {at} short", [*steps[:at], step[:31], *steps[at + 1 :]]
        yield f"step {at} long", [*steps[:at], step + b"\x00", *steps[at + 1 :]]
    if steps:
        yield "first step missing", steps[1:]
        yield "last step missing", steps[:-1]
        yield "no steps", []
    if len(steps) > 1:
        yield "steps in reverse", steps[::-1]


def case(name, *, valid, **fields) -> Case:
    def plain(value):
        if isinstance(value, bytes):
            return value.hex()
        return [each.hex() for each in value] if isinstance(value, list) else value

    return {"name": name, "valid": valid} | {key: plain(each) for key, each in fields.items()}


def inclusion_cases():
    for index, size in [(0, 1), (0, 8), (5, 8), (2, 3), (1, 5), (6, 7)]:
        data = LEAVES[:size]
        good = {
            "leaf": mth([data[index]]),
            "index": index,
            "size": size,
            "proof": path(index, data),
            "root": mth(data),
        }
        where = f"leaf {index} of {size}"
        yield case(where, valid=True, **good)
        for name, steps in proof_forgeries(good["proof"], good["root"]):
            yield case(f"{where}: {name}", valid=False, **good | {"proof": steps})
        forged = {
            "index + 1": {"index": index + 1},
            "index ^ 2": {"index": index ^ 2},
            "index of the size": {"index": size},
            "index -1": {"index": -1},
            # A size whose last leaf is reached by as many steps gives the same path: no forgery.
            "size doubled": {"size": size * 2 if size * 2 - 1 else 4},
            "size 0": {"size": 0},
            "other leaf": {"leaf": mth([b"other"])},
            "short leaf": {"leaf": good["leaf"][:31]},
            "root of nothing": {"root": mth([])},
            "no root": {"root": b""},
            "other root": {"root": flip(good["root"], 0)},
        }
        for name, change in forged.items():
            yield case(f"{where}: {name}", valid=False, **good | change)


def consistency_cases():
    for old, new in [(1, 1), (1, 8), (6, 8), (2, 5), (3, 7), (4, 8), (5, 6)]:
        data = LEAVES[:new]
        good = {
            "old_size": old,
            "new_size": new,
            "proof": proof(old, data),
            "old_root": mth(data[:old]),
            "new_root": mth(data),
        }
        where = f"{old} to {new}"
        yield case(where, valid=True, **good)
        for name, steps in proof_forgeries(good["proof"], good["old_root"], good["new_root"]):
            yield case(f"{where}: {name}", valid=False, **good | {"proof": steps})
        forged = {
            "old size 0": {"old_size": 0},
            "old size + 1": {"old_size": old + 1},
            "old size ^ 2": {"old_size": old ^ 2},
            "new size doubled": {"new_size": new * 2},
            "old beyond new": {"old_size": new + 1},
            "negative": {"old_size": -old},
            "other old root": {"old_root": flip(good["old_root"], 0)},
            "other new root": {"new_root": flip(good["new_root"], 0)},
            "short new root": {"new_root": good["new_root"][:31]},
        }
        if old != new:
            forged["roots swapped"] = {
                "old_root": good["new_root"],
                "new_root": good["old_root"],
            }
        for name, change in forged.items():
            yield case(f"{where}: {name}", valid=False, **good | change)
    empty = mth([])
    for old, new in [(0, 0), (0, 1)]:
        yield case(
            f"{old} to {new} shows nothing",
            valid=False,
            old_size=old,
            new_size=new,
            proof=[],
            old_root=empty,
            new_root=mth(LEAVES[:new]),
        )


def documents():
    """The files of this folder, by name."""
    roots = [mth(LEAVES[:size]).hex() for size in range(len(LEAVES) + 1)]
    return {
        "roots.json": {"leaves": [each.hex() for each in LEAVES], "roots": roots},
        "inclusion.json": {"cases": list(inclusion_cases())},
        "consistency.json": {"cases": list(consistency_cases())},
    }


def encoded(document) -> str:
    return json.dumps(document, indent=1) + "\n"


if __name__ == "__main__":
    for name, document in documents().items():
        Path(__file__).with_name(name).write_text(encoded(document), encoding="utf-8")
