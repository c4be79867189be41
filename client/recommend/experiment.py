"""Who is in which arm of an experiment: drawn by a keyed hash, the same for as long as it runs."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

from client.engine.home import RegionHome
from client.recommend.settings import Arm, ExperimentSettings, recommend_folder
from common.durable_file import make_folder_durably, write_durably
from common.errors import StorageError

KEY_NAME = "experiment.key"
KEY_BYTES = 32
_ARM_DOMAIN = b"fedpref-arm/1\n"
_PSEUDONYM_DOMAIN = b"fedpref-exposure/1\n"
_PSEUDONYM_BYTES = 16


class Assignment:
    """The arms of one experiment.

    Nobody without the region's key can tell the arm of a pseudonym, nor whose an exposure is.

    Args:
        settings: The experiment.
        key: The region's key of experiments.
    """

    def __init__(self, settings: ExperimentSettings, key: bytes) -> None:
        self.settings = settings
        self._key = key

    def arm(self, sid: str) -> Arm:
        """A customer's arm, drawn with the probability of the arm's share.

        Args:
            sid: Her pseudonym.
        """
        drawn = self._hash(_ARM_DOMAIN, self.settings.name, sid)
        place = int.from_bytes(drawn[:8], "big") / 2**64
        passed = 0.0
        for arm in self.settings.arms:
            passed += arm.share
            if place < passed:
                return arm
        # Rounding may leave the shares a trifle below 1.
        return self.settings.arms[-1]

    def pseudonym(self, sid: str) -> bytes:
        """What an exposure calls a customer: 16 bytes that the consent log does not have."""
        return self._hash(_PSEUDONYM_DOMAIN, self.settings.name, sid)[:_PSEUDONYM_BYTES]

    def _hash(self, domain: bytes, name: str, sid: str) -> bytes:
        text = domain + f"{name}\n{sid}".encode()
        return hmac.new(self._key, text, hashlib.sha256).digest()


def experiment_key(home: RegionHome) -> bytes:
    """The region's key of experiments; made if there is none.

    Raises:
        StorageError: It cannot be read or written, or has another length.
    """
    path = recommend_folder(home) / KEY_NAME
    try:
        if not path.exists():
            make_folder_durably(recommend_folder(home))
            write_durably(path, os.urandom(KEY_BYTES))
        key = path.read_bytes()
    except OSError as error:
        raise _unusable(path, str(error.strerror)) from error
    if len(key) != KEY_BYTES:
        raise _unusable(path, f"it has not {KEY_BYTES} bytes")
    return key


def _unusable(path: Path, why: str) -> StorageError:
    return StorageError(
        f"The key of experiments {path} cannot be used: {why}.",
        remedy="Restore it; without it, name the experiment anew, as all arms are drawn anew.",
    )
