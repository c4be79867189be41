"""Bodies of add-checkpoint that are not of its form, each for one reason."""

from __future__ import annotations

import base64

from tests.support.branching_log import BranchingLog

NOTE = BranchingLog().note(8)
HASH = base64.b64encode(bytes(range(32)))

MALFORMED = {
    "empty": b"",
    "no blank line": b"old 0\n",
    "only a blank line": b"\n\n" + NOTE,
    "no old line": HASH + b"\n\n" + NOTE,
    "no space": b"old0\n\n" + NOTE,
    "two spaces": b"old  0\n\n" + NOTE,
    "trailing space": b"old 0 \n\n" + NOTE,
    "upper case": b"Old 0\n\n" + NOTE,
    "leading zero": b"old 03\n\n" + NOTE,
    "double zero": b"old 00\n\n" + NOTE,
    "sign": b"old -1\n\n" + NOTE,
    "plus": b"old +1\n\n" + NOTE,
    "no number": b"old \n\n" + NOTE,
    "hex": b"old 0x1\n\n" + NOTE,
    "other digits": "old \u0663\n\n".encode() + NOTE,
    "beyond a log's size": b"old 9223372036854775808\n\n" + NOTE,
    "very long number": b"old " + b"9" * 5000 + b"\n\n" + NOTE,
    "carriage returns": b"old 0\r\n\r\n" + NOTE,
    "short hash": b"old 3\n" + base64.b64encode(bytes(31)) + b"\n\n" + NOTE,
    "long hash": b"old 3\n" + base64.b64encode(bytes(33)) + b"\n\n" + NOTE,
    "no padding": b"old 3\n" + HASH.rstrip(b"=") + b"\n\n" + NOTE,
    "non-canonical base64": b"old 3\n" + HASH[:-2] + b"9=" + b"\n\n" + NOTE,
    "URL alphabet": b"old 3\n" + base64.urlsafe_b64encode(b"\xff" * 32) + b"\n\n" + NOTE,
    "space in a hash": b"old 3\n" + HASH + b" \n\n" + NOTE,
    "64 lines": b"old 3\n" + (HASH + b"\n") * 64 + b"\n" + NOTE,
}
