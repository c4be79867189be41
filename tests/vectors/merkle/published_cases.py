"""Writes published-inclusion.json and published-consistency.json: `python` this file.

transparency-dev/merkle publishes 98 inclusion and 98 consistency cases: five proofs of each kind
over Certificate Transparency's leaves, each with the same list of corruptions, and some cases of
trees too small to prove anything. They are computed here anew, from RFC 6962 by `generate.py`, in
that order and with those names; "accepted" is what the publisher's verifier does.
"""

from __future__ import annotations

import hashlib
import json
import runpy
from pathlib import Path

_RFC_6962 = runpy.run_path(str(Path(__file__).with_name("generate.py")))
LEAVES, mth, path, proof = (_RFC_6962[name] for name in ("LEAVES", "mth", "path", "proof"))

EMPTY_ROOT = hashlib.sha256(b"").digest()
SOME_HASH = bytes.fromhex("abacaba0").ljust(25, b"\x00") + bytes.fromhex("60061e00123456")
DATA_LEAF = hashlib.sha256(b"\x00data").digest()
DO_NOT_CARE = b"don't care 1", b"don't care 2"
#: Sizes and indices there are unsigned and of 64 bits: 0 - 1 is this.
LARGEST = 2**64 - 1

INCLUSIONS = [(0, 1), (0, 8), (5, 8), (2, 3), (1, 5)]
CONSISTENCIES = [(1, 1), (1, 8), (6, 8), (2, 5), (6, 7)]


def flipped(steps, at, bit):
    changed = bytes([steps[at][0] ^ 1 << bit]) + steps[at][1:]
    return [*steps[:at], changed, *steps[at + 1 :]]


def inclusion(name, index, size, leaf, steps, root, *, accepted=False):
    return {
        "name": name,
        "accepted": accepted,
        "index": index,
        "size": size,
        "leaf": leaf.hex(),
        "proof": [step.hex() for step in steps],
        "root": root.hex(),
    }


def inclusion_probes(where, index, size):
    data = LEAVES[:size]
    leaf, steps, root = mth([data[index]]), path(index, data), mth(data)
    yield inclusion(f"{where}/happy path", index, size, leaf, steps, root, accepted=True)
    for name, wrong in [
        ("leafIdx sub @1", (index - 1) & LARGEST),
        ("leafIdx plus @1", index + 1),
        ("leafIdx XOR @2", index ^ 2),
    ]:
        yield inclusion(f"{where}/{name}", wrong, size, leaf, steps, root)
    for name, wrong in [("treeSize mul @2", size * 2), ("treeSize div @2", size // 2)]:
        yield inclusion(f"{where}/{name}", index, wrong, leaf, steps, root)
    yield inclusion(f"{where}/wrong leaf", index, size, b"WrongLeaf", steps, root)
    for name, wrong in [("empty root", EMPTY_ROOT), ("random root", SOME_HASH)]:
        yield inclusion(f"{where}/{name}", index, size, leaf, steps, wrong)
    corrupted = {
        "trailing garbage": [*steps, b""],
        "trailing root": [*steps, root],
        "preceding garbage": [b"", *steps],
        "preceding root": [root, *steps],
    }
    corrupted |= {f"modified proof[{at}] bit @3": flipped(steps, at, 3) for at in range(len(steps))}
    if steps:
        corrupted["removed component"] = steps[:-1]
    if len(steps) > 1:
        corrupted["inserted component"] = [steps[0], SOME_HASH, *steps[1:]]
    for name, wrong in corrupted.items():
        yield inclusion(f"{where}/{name}", index, size, leaf, wrong, root)


def inclusion_cases():
    for number, (index, size) in enumerate(INCLUSIONS):
        yield from inclusion_probes(str(number), index, size)
    for number, (index, size) in enumerate([(0, 0), (0, 1), (1, 0), (2, 1)]):
        for name, root, leaf in [
            ("empty root", EMPTY_ROOT, b""),
            ("random leaf", b"", SOME_HASH),
            ("empty root and random leaf", EMPTY_ROOT, SOME_HASH),
        ]:
            yield inclusion(f"additional/{number}/{name}", index, size, leaf, [], root)
    for name, root, leaf in [
        ("matching root and leaf", DATA_LEAF, DATA_LEAF),
        ("empty leaf", DATA_LEAF, b""),
        ("empty root", b"", DATA_LEAF),
        ("empty root and leaf", b"", b""),
    ]:
        accepted = name == "matching root and leaf"
        yield inclusion(f"single entry/{name}", 0, 1, leaf, [], root, accepted=accepted)


def consistency(name, sizes, roots, steps, *, accepted=False):
    return {
        "name": name,
        "accepted": accepted,
        "old_size": sizes[0],
        "new_size": sizes[1],
        "proof": [step.hex() for step in steps],
        "old_root": roots[0].hex(),
        "new_root": roots[1].hex(),
    }


def consistency_probes(where, old, new):
    data = LEAVES[:new]
    roots, steps = (mth(data[:old]), mth(data)), proof(old, data)
    yield consistency(f"{where}/happy path", (old, new), roots, steps, accepted=True)
    if not steps:
        return
    for name, sizes in [
        ("size1 sub @1", (old - 1, new)),
        ("size1 plus @1", (old + 1, new)),
        ("size1 XOR @2", (old ^ 2, new)),
        ("size2 mul @2", (old, new * 2)),
        ("size2 div @2", (old, new // 2)),
    ]:
        yield consistency(f"{where}/{name}", sizes, roots, steps)
    for name, wrong in [
        ("wrong root1", (b"WrongRoot", roots[1])),
        ("wrong root2", (roots[0], b"WrongRoot")),
        ("swapped roots", roots[::-1]),
    ]:
        yield consistency(f"{where}/{name}", (old, new), wrong, steps)
    corrupted = {
        "empty proof": [],
        "trailing garbage": [*steps, b""],
        "trailing root1": [*steps, roots[0]],
        "trailing root2": [*steps, roots[1]],
        "preceding garbage": [b"", *steps],
        "preceding root1": [roots[0], *steps],
        "preceding root2": [roots[1], *steps],
        "preceding proof @0": [steps[0], *steps],
        "truncated proof": steps[:-1],
    }
    corrupted |= {f"modified proof@{at} bit @4": flipped(steps, at, 4) for at in range(len(steps))}
    for name, wrong in corrupted.items():
        yield consistency(f"{where}/{name}", (old, new), roots, wrong)


def consistency_cases():
    for number, (old, new) in enumerate(CONSISTENCIES):
        yield from consistency_probes(str(number), old, new)
    one, two = DO_NOT_CARE
    for name, sizes, roots, steps in [
        ("size1 is greater than size2", (1, 0), (one, two), []),
        ("size1 is greater than size2 again", (2, 1), (one, two), []),
        ("size1 is zero and does not equal size2", (0, 1), (one, two), []),
        ("sizes do not watch and proof is empty", (1, 2), (one, two), []),
        ("size1 is zero and size2 is not zero", (0, 1), (EMPTY_ROOT, two), []),
        ("sizes are equal (zero) and proof is empty", (0, 0), (one, one), []),
        ("sizes are equal (one) and proof is empty", (1, 1), (two, two), []),
        ("sizes are equal (zero) but roots are not", (0, 0), (one, two), []),
        ("sizes are equal (one) but roots are not", (1, 1), (one, two), []),
        ("roots do not match and sizes are zero", (0, 0), (EMPTY_ROOT, two), []),
        ("roots do not not match and sizes are one", (1, 1), (EMPTY_ROOT, two), []),
        (
            "consistency check on empty tree (size1 is zero) is useless",
            (0, 1),
            (EMPTY_ROOT, EMPTY_ROOT),
            [EMPTY_ROOT],
        ),
        (
            "sizes match but proof is not empty and sizes are zero",
            (0, 0),
            (EMPTY_ROOT, EMPTY_ROOT),
            [EMPTY_ROOT],
        ),
        (
            "sizes match but proof is not empty and sizes are one",
            (1, 1),
            (EMPTY_ROOT, EMPTY_ROOT),
            [EMPTY_ROOT],
        ),
    ]:
        accepted = name == "sizes are equal (one) and proof is empty"
        yield consistency(f"additional/{name}", sizes, roots, steps, accepted=accepted)


def documents():
    """The two files, by name."""
    return {
        "published-inclusion.json": {"cases": list(inclusion_cases())},
        "published-consistency.json": {"cases": list(consistency_cases())},
    }


def encoded(document) -> str:
    return json.dumps(document, indent=1) + "\n"


if __name__ == "__main__":
    for name, document in documents().items():
        Path(__file__).with_name(name).write_text(encoded(document), encoding="utf-8")
