"""Public keys that must not pass any door: by name, as 32 bytes."""

from __future__ import annotations

from tests.support import ed25519_arithmetic as ed25519

TORSION = ed25519.order_8_point()


def unsound_keys() -> dict[str, bytes]:
    """Small order in every encoding, mixed order, other non-canonical ones, not on the curve."""
    keys = {f"small order {data.hex()}": data for data in ed25519.small_order_encodings()}
    honest = 12345 * ed25519.BASE
    keys |= {f"mixed order {n}": (honest + n * TORSION).encode() for n in range(1, 8)}
    for y in range(19):
        for sign in (0, 1):
            keys[f"non-canonical y = {y}, sign {sign}"] = (ed25519.P + y | sign << 255).to_bytes(
                32, "little"
            )
    keys["not on the curve"] = (2).to_bytes(32, "little")
    return keys


#: One of each kind, for tests of doors that share the check.
A_FEW = {
    "identity": ed25519.IDENTITY.encode(),
    "order 8": TORSION.encode(),
    "identity, non-canonical": (ed25519.P + 1).to_bytes(32, "little"),
    "mixed order": (7 * ed25519.BASE + TORSION).encode(),
}
