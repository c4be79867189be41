"""A region's enrolment (``fedpref-enrolment/1``): its answer to a kit, with the keys it made.

The region's controller key signs the record; each signing key's own request is in it. Beside it are
two proofs over the same bytes: the node key's signature, so that nobody can enrol another's node
key as their own, and a MAC by the kit's token, so that only who got the kit can answer it. Whether
who got it is the region, the officers know: they gave it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from common import canonical_json
from common.canonical_json import JsonValue
from common.envelope import Envelope, pae, sign_record, verify_envelope
from common.errors import FormatError, VerificationError
from common.key_request import KeyRequest, open_request
from common.signatures import Signer
from common.validate import array, exact_fields, line, party, sha256_hex, timestamp, whole_number

MAX_ENROLMENT_BYTES = 256 << 10
#: The roles whose keys a region enrols, all of them.
REGION_ROLES = frozenset({"log", "consent", "trainer", "permit", "controller", "witness"})

_VERSION = "fedpref-enrolment/1"
_FILE_VERSION = "fedpref-enrolment-file/1"
_FIELDS = frozenset(
    {
        "v",
        "federation",
        "region",
        "kit",
        "node_key",
        "requests",
        "protocol",
        "engine",
        "enrolled_at",
    }
)
_FILE_FIELDS = frozenset({"v", "envelope", "node_proof", "kit_proof"})
# Each proof is of these bytes for this purpose and no other.
_NODE_PURPOSE = b"fedpref-enrolment-node/1\n"
_KIT_PURPOSE = b"fedpref-enrolment-kit/1\n"


@dataclass(frozen=True)
class EnrolmentFacts:
    """What a region says when it enrols.

    Attributes:
        federation: The federation's name.
        region: Who enrols.
        kit_sha256: The kit that it answers (`common.kit.Kit.sha256`).
        node_key: The public key of its node, one line as OpenSSH writes it.
        requests: Its requests to enrol its signing keys, by role.
        protocol: The version of the protocol that its engine speaks.
        engine: SHA-256 of its installed engine.
        enrolled_at: When.
    """

    federation: str
    region: str
    kit_sha256: str
    node_key: str
    requests: Mapping[str, bytes]
    protocol: int
    engine: str
    enrolled_at: str

    def to_record(self) -> dict[str, JsonValue]:
        """The record that is signed."""
        return {
            "v": _VERSION,
            "federation": self.federation,
            "region": self.region,
            "kit": self.kit_sha256,
            "node_key": self.node_key,
            "requests": [_to_base64(data) for _, data in sorted(self.requests.items())],
            "protocol": self.protocol,
            "engine": self.engine,
            "enrolled_at": self.enrolled_at,
        }


@dataclass(frozen=True)
class Enrolment:
    """A verified enrolment, except for the kit's token, which only the coordinator's side has.

    Attributes:
        facts: What the region says.
        keys: Its requests, opened, by role.
        message: The bytes that the proofs are over.
        kit_proof: The MAC by the kit's token.
    """

    facts: EnrolmentFacts
    keys: Mapping[str, KeyRequest]
    message: bytes
    kit_proof: bytes

    @property
    def fingerprint(self) -> str:
        """What officers and region compare over another channel: a digest of it all, in hex."""
        return hashlib.sha256(self.message).hexdigest()

    def answers(self, token: bytes) -> bool:
        """Whether who made it had the kit with this token."""
        return hmac.compare_digest(_kit_proof(self.message, token), self.kit_proof)


def make_enrolment(
    facts: EnrolmentFacts,
    *,
    controller: Signer,
    node_key: ec.EllipticCurvePrivateKey,
    token: bytes,
) -> bytes:
    """Makes an enrolment's file.

    Args:
        facts: What the region says.
        controller: Its controller key.
        node_key: Its node's private key.
        token: The kit's token.

    Raises:
        FormatError: A fact is malformed.
        VerificationError: The keys are not those that the facts name.
    """
    envelope = sign_record(facts.to_record(), controller, max_bytes=MAX_ENROLMENT_BYTES)
    message = _message(Envelope.decode(envelope, max_bytes=MAX_ENROLMENT_BYTES))
    data = canonical_json.encode(
        {
            "v": _FILE_VERSION,
            "envelope": _to_base64(envelope),
            "node_proof": _to_base64(node_key.sign(_NODE_PURPOSE + message, ec.ECDSA(SHA384()))),
            "kit_proof": _kit_proof(message, token).hex(),
        },
        max_bytes=MAX_ENROLMENT_BYTES,
    )
    open_enrolment(data)
    return data


def open_enrolment(data: bytes) -> Enrolment:
    """Reads an enrolment and verifies all of it but the kit's token.

    Raises:
        FormatError: It is malformed.
        VerificationError: A signature, a request or the node's proof does not hold.
    """
    file = exact_fields(
        canonical_json.decode(data, max_bytes=MAX_ENROLMENT_BYTES), _FILE_FIELDS, "An enrolment"
    )
    if file["v"] != _FILE_VERSION:
        raise FormatError(f"The file is not an enrolment ({_FILE_VERSION}).")
    envelope = Envelope.decode(
        _from_base64(file["envelope"], "envelope"), max_bytes=MAX_ENROLMENT_BYTES
    )
    facts, keys = _parse(envelope.record())
    controller = keys["controller"]
    verify_envelope(envelope, {controller.key_id: controller.public_key})
    message = _message(envelope)
    try:
        node_public_key(facts.node_key).verify(
            _from_base64(file["node_proof"], "node_proof"),
            _NODE_PURPOSE + message,
            ec.ECDSA(SHA384()),
        )
    except InvalidSignature as error:
        raise VerificationError(
            f"The enrolment of {facts.region} is not signed by the node key that it names."
        ) from error
    kit_proof = bytes.fromhex(sha256_hex(file["kit_proof"], "kit_proof"))
    return Enrolment(facts, MappingProxyType(keys), message, kit_proof)


def node_public_key(text: str) -> ec.EllipticCurvePublicKey:
    """Reads a node's public key.

    Args:
        text: One line as OpenSSH writes it: type, base64, and nothing else.

    Raises:
        FormatError: It is none, or not of the curve P-384.
    """
    try:
        key = load_ssh_public_key(text.encode("ascii"))
    except (ValueError, UnicodeError, UnsupportedAlgorithm) as error:
        raise FormatError("The node key is no public key as OpenSSH writes it.") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise FormatError("The node key is not an ECDSA key of the curve P-384.")
    return key


def _parse(record: JsonValue) -> tuple[EnrolmentFacts, dict[str, KeyRequest]]:
    fields = exact_fields(record, _FIELDS, "An enrolment")
    federation = line(fields["federation"], "federation")
    region = party(fields["region"], "region")
    requests: dict[str, bytes] = {}
    keys: dict[str, KeyRequest] = {}
    for item in array(fields["requests"], "requests"):
        data = _from_base64(item, "requests")
        request = open_request(data)
        if (request.federation, request.party) != (federation, region):
            raise VerificationError(
                f"The enrolment of {region} has the request of a key of {request.party} in "
                f"{request.federation}."
            )
        if request.role in keys:
            raise VerificationError(f"The enrolment of {region} has two {request.role} keys.")
        keys[request.role], requests[request.role] = request, data
    if set(keys) != REGION_ROLES:
        raise VerificationError(
            f"The enrolment of {region} does not ask for exactly one key of each role: "
            f"{', '.join(sorted(REGION_ROLES))}."
        )
    node_key = line(fields["node_key"], "node_key")
    node_public_key(node_key)
    facts = EnrolmentFacts(
        federation=federation,
        region=region,
        kit_sha256=sha256_hex(fields["kit"], "kit"),
        node_key=node_key,
        requests=MappingProxyType(requests),
        protocol=whole_number(fields["protocol"], "protocol", least=1),
        engine=sha256_hex(fields["engine"], "engine"),
        enrolled_at=timestamp(fields["enrolled_at"], "enrolled_at")[0],
    )
    return facts, keys


def _message(envelope: Envelope) -> bytes:
    return pae(envelope.payload_type, envelope.payload)


def _kit_proof(message: bytes, token: bytes) -> bytes:
    return hmac.new(token, _KIT_PURPOSE + message, hashlib.sha256).digest()


def _to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _from_base64(value: JsonValue, where: str) -> bytes:
    if type(value) is not str:
        raise FormatError(f"{where} of the enrolment is no text.")
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError(f"{where} of the enrolment is not base64.") from error
    if _to_base64(data) != value:
        raise FormatError(f"The base64 of {where} is not in its one canonical form.")
    return data
