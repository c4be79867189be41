"""Customer key files (``fedpref-customer-key/1``): what lets one customer's records be found.

Who holds such a file can tell which of a region's records and rounds are this customer's; nobody
can without it. A region hands it to the customer alone, and erasing the customer destroys its copy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from common import canonical_json
from common.canonical_json import JsonValue
from common.durable_file import write_durably
from common.errors import FormatError, InputError, StorageError, VerificationError
from common.identifiers import subject_id
from common.validate import exact_fields, line, party, sha256_hex

MAX_CUSTOMER_KEY_BYTES = 4096
_VERSION = "fedpref-customer-key/1"
_FIELDS = frozenset({"v", "federation", "region", "customer_ref", "k_subject", "sid"})


@dataclass(frozen=True)
class CustomerKey:
    """One customer's key; it is whole, as `sid` follows from the rest.

    Attributes:
        federation: The federation's name.
        region: The region whose customer it is.
        customer_ref: The region's own reference of the customer.
        k_subject: The customer's 32 secret bytes; never shown in a representation.
        sid: The customer's pseudonym in the region's log, 64 hex digits.
    """

    federation: str
    region: str
    customer_ref: str
    k_subject: bytes = field(repr=False)
    sid: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sid", subject_id(self.k_subject, self.customer_ref))

    def encode(self) -> bytes:
        """The file's only bytes.

        Raises:
            FormatError: The reference is too long.
        """
        record: dict[str, JsonValue] = {
            "v": _VERSION,
            "federation": self.federation,
            "region": self.region,
            "customer_ref": self.customer_ref,
            "k_subject": self.k_subject.hex(),
            "sid": self.sid,
        }
        return canonical_json.encode(record, max_bytes=MAX_CUSTOMER_KEY_BYTES)

    @classmethod
    def parse(cls, data: bytes) -> CustomerKey:
        """Reads a customer key.

        Raises:
            FormatError: It is not of the exact form.
            VerificationError: Its pseudonym is not the one that its key and reference give.
        """
        value = canonical_json.decode(data, max_bytes=MAX_CUSTOMER_KEY_BYTES)
        fields = exact_fields(value, _FIELDS, "The customer key")
        if fields["v"] != _VERSION:
            raise FormatError(f"It is not a customer key ({_VERSION}).")
        customer_ref = fields["customer_ref"]
        if type(customer_ref) is not str:
            raise FormatError("customer_ref is not a text.")
        # 32 bytes in lower-case hex have the form of a SHA-256.
        secret = bytes.fromhex(sha256_hex(fields["k_subject"], "k_subject"))
        key = cls(
            federation=line(fields["federation"], "federation"),
            region=party(fields["region"], "region"),
            customer_ref=customer_ref,
            k_subject=secret,
        )
        if key.sid != sha256_hex(fields["sid"], "sid"):
            raise VerificationError(
                "The customer key's pseudonym is not the one that its secret and reference give.",
                remedy="Ask the region for the file anew: this one was altered or damaged.",
            )
        return key


def read_customer_key(path: Path) -> CustomerKey:
    """Reads a customer key file.

    Raises:
        InputError: The file is missing, unreadable or malformed; names the file.
        VerificationError: Its pseudonym does not follow from its secret.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CUSTOMER_KEY_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"The customer key {path} cannot be read: {error.strerror}.",
            remedy="Name the file that the region gave to the customer.",
        ) from error
    try:
        return CustomerKey.parse(data)
    except FormatError as error:
        raise FormatError(f"The customer key {path}: {error.message}") from error


def write_customer_key(path: Path, key: CustomerKey) -> None:
    """Writes a customer key file, readable by its owner alone.

    Raises:
        StorageError: It cannot be written.
    """
    try:
        write_durably(path, key.encode(), mode=0o600)
    except OSError as error:
        raise StorageError(
            f"The customer key {path} cannot be written: {error.strerror}.",
            remedy="Name a folder that exists and may be written to.",
        ) from error
