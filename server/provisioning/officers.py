"""The federation's officers: the root keys that are at hand, and what is signed with them.

Who founds a federation on one machine has all root keys there to begin with; they belong on the
officers' own offline media. What is done here with them, `fedpref-region keys root` does with one
key at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common import canonical_json
from common.canonical_json import JsonValue
from common.durable_file import write_durably
from common.errors import FormatError, InputError, VerificationError
from common.key_entry import parse_public_key
from common.key_files import create_whole, generate_key, load_key, read_private
from common.key_rotation import new_passphrase
from common.registry_changes import finish_draft, sign_draft
from common.registry_draft import Draft
from common.signatures import Signer
from server.deployment import Deployment

_PASSPHRASE = "passphrase"  # noqa: S105 - the name of a file

README = """\
These are the federation's root keys: whoever has {threshold} of the {officers} can enrol any key.

Move each `root-N.pem` to its officer's own offline medium, the passphrase apart from it, and leave
none here. What needs them afterwards says so and writes a draft; each officer signs it with

    fedpref-region keys root sign DRAFT --key root-N.pem --passphrase-file passphrase
"""


def make_officers(folder: Path, *, officers: int, threshold: int) -> list[Signer]:
    """Makes the root keys, ``root-1.pem`` and on, and a page on where they belong.

    Args:
        folder: A folder that has none yet.
        officers: How many.
        threshold: How many must sign.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    secret = new_passphrase()
    create_whole(folder / _PASSPHRASE, secret + b"\n")
    page = README.format(threshold=threshold, officers=officers)
    create_whole(folder / "README.md", page.encode(), mode=0o644)
    return [generate_key(folder / f"root-{n}.pem", secret) for n in range(1, officers + 1)]


def write_roots(deployment: Deployment, officers: Sequence[Signer]) -> None:
    """Writes down the public root keys, which no party needs to keep secret."""
    record: dict[str, JsonValue] = {each.key_id: each.public_key.hex() for each in officers}
    write_durably(deployment.roots, canonical_json.encode(record), mode=0o644)


def read_roots(deployment: Deployment) -> dict[str, bytes]:
    """The public root keys of the federation, by key id.

    Raises:
        InputError: The file is missing or malformed.
    """
    try:
        record = canonical_json.decode(deployment.roots.read_bytes())
        if not isinstance(record, dict):
            raise FormatError("It is no object.")
        return dict(parse_public_key(key_id, key) for key_id, key in record.items())
    except (OSError, FormatError, VerificationError) as error:
        raise InputError(
            f"The root keys {deployment.roots} cannot be read: {error}.",
            remedy="Restore the file from a backup of the deployment.",
        ) from error


def officers_at_hand(folder: Path) -> list[Signer]:
    """The root keys that this machine has and can open; none if the officers keep them elsewhere.

    Raises:
        InputError: A key is there but does not open.
    """
    files = sorted(folder.glob("root-*.pem"))
    if not files:
        return []
    secret = folder / _PASSPHRASE
    if not secret.exists():
        return []
    passphrase = read_private(secret, "root keys' passphrase").strip()
    return [load_key(path, passphrase) for path in files]


def sign_version(draft: Draft, officers: Sequence[Signer], threshold: int) -> bytes:
    """Signs a draft of the registry by as many officers as it takes.

    Args:
        draft: The draft.
        officers: The root keys at hand.
        threshold: How many must sign.

    Returns:
        The new version's envelope.

    Raises:
        InputError: Too few root keys are at hand.
        VerificationError: The draft does not hold.
    """
    if len(officers) < threshold:
        raise InputError(
            f"{len(officers)} root keys are at hand; {threshold} must sign.",
            remedy="Let the officers sign the draft: fedpref-region keys root sign.",
        )
    for officer in officers[:threshold]:
        draft = sign_draft(draft, officer)
    return finish_draft(draft)
