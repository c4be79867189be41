"""The evidence of a choice: what shows that the customer made it, kept where it can be deleted.

A record in the log names a salted digest. Salt and token lie in the subjects' table, encrypted, for
as long as the customer is not erased: with them the region can show later what the digest stands
for; without them the digest tells nothing, as the salt has 256 bits.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field

from client.engine.subjects import EvidenceRow
from common.errors import FormatError

SALT_BYTES = 32
MAX_TOKEN_BYTES = 16_384
SUBJECT = "subject"
GUARDIAN = "guardian"


@dataclass(frozen=True)
class Evidence:
    """One token with its salt.

    Attributes:
        salt: 32 random bytes.
        token: The identity provider's signed token, or an imported document's reference.
    """

    salt: bytes = field(repr=False)
    token: bytes = field(repr=False)

    @classmethod
    def of(cls, token: bytes) -> Evidence:
        """Salts a token.

        Raises:
            FormatError: The token is empty or longer than `MAX_TOKEN_BYTES`.
        """
        if not 0 < len(token) <= MAX_TOKEN_BYTES:
            raise FormatError(f"Evidence is a token of 1 to {MAX_TOKEN_BYTES} bytes.")
        return cls(os.urandom(SALT_BYTES), token)

    @classmethod
    def read(cls, row: EvidenceRow) -> Evidence:
        """Reads what the table kept."""
        return cls(row.value[:SALT_BYTES], row.value[SALT_BYTES:])

    @property
    def digest(self) -> str:
        """What the record names: ``SHA256("fedpref-evidence/1" ‖ salt ‖ token)`` in hex."""
        return hashlib.sha256(b"fedpref-evidence/1" + self.salt + self.token).hexdigest()

    def row(self, record_id: str, giver: str, customer_ref: str) -> EvidenceRow:
        """What the table keeps."""
        return EvidenceRow(record_id, giver, customer_ref, self.salt + self.token)
