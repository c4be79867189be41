"""Signing keys: what makes and checks signatures, where keys are kept, and whose they are."""

from common.key_entry import ROLES, KeyEntry
from common.key_files import Ed25519FileSigner, generate_key, load_key
from common.key_registry import MAX_REGISTRY_BYTES, Registry, build_registry
from common.signatures import (
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
    Signer,
    check_public_key,
    key_id,
    verify_signature,
)

__all__ = [
    "MAX_REGISTRY_BYTES",
    "PUBLIC_KEY_BYTES",
    "ROLES",
    "SIGNATURE_BYTES",
    "Ed25519FileSigner",
    "KeyEntry",
    "Registry",
    "Signer",
    "build_registry",
    "check_public_key",
    "generate_key",
    "key_id",
    "load_key",
    "verify_signature",
]
