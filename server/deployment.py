"""A deployment's folder on the coordinator's machine: where each of its files lies.

The folder itself may be read by all who administer the federation; what is secret in it is in
folders that only the process which needs it can open:

| folder | what | whose |
|---|---|---|
| ``ca/``, ``root/`` | private keys of CA and officers: keep them offline | the administrator |
| ``tokens/`` | the secrets by which regions answer their kits | the administrator |
| ``tls/`` | the SuperLink's certificate and key | ``superlink_user`` |
| ``superlink/`` | Flower's database, its secret, the admin port's token | ``superlink_user`` |
| ``server/`` | the coordinator's home: keys, registry, log, runs | ``coordinator_user`` |
| ``coordinator/`` | the coordinator's copies of secret and token, the queue's state | the same |
| ``app/`` | the app bundle that is shipped | all |
| ``kits/``, ``nodes/`` | start-up kits; the regions' node keys, public | the administrator |
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from server.config import ServerHome

CONFIG_NAME = "federation.toml"


@dataclass(frozen=True)
class Deployment:
    """Paths inside a deployment's folder.

    Args:
        root: The folder itself.
    """

    root: Path

    @property
    def config(self) -> Path:
        """The federation's declaration, as it was provisioned and changed since."""
        return self.root / CONFIG_NAME

    @property
    def ca(self) -> Path:
        """The folder of the CA's key and certificate."""
        return self.root / "ca"

    @property
    def ca_certificate(self) -> Path:
        """The CA's certificate: what regions trust the coordinator's port by."""
        return self.ca / "ca.crt"

    @property
    def ca_key(self) -> Path:
        """The CA's private key; needed only to make certificates."""
        return self.ca / "ca.key"

    @property
    def tls(self) -> Path:
        """The folder of the SuperLink's certificate and key."""
        return self.root / "tls"

    @property
    def certificate(self) -> Path:
        """The SuperLink's certificate."""
        return self.tls / "server.crt"

    @property
    def certificate_key(self) -> Path:
        """The private key of the SuperLink's certificate."""
        return self.tls / "server.key"

    @property
    def officers(self) -> Path:
        """The folder of the officers' root keys; it may be elsewhere, and should be."""
        return self.root / "root"

    @property
    def roots(self) -> Path:
        """The officers' public root keys, by key id: the trust anchor that every kit states."""
        return self.root / "roots.json"

    @property
    def tokens(self) -> Path:
        """The folder of what each kit proves itself by at enrolment."""
        return self.root / "tokens"

    @property
    def catalogue(self) -> Path:
        """The public catalogue."""
        return self.root / "catalogue.parquet"

    @property
    def bundle(self) -> Path:
        """The app bundle that the coordinator ships."""
        return self.root / "app" / "fedpref.fab"

    @property
    def kits(self) -> Path:
        """The folder of the regions' start-up kits."""
        return self.root / "kits"

    @property
    def nodes(self) -> Path:
        """The folder of the regions' public node keys, ``REGION.pub``: who may connect."""
        return self.root / "nodes"

    @property
    def drafts(self) -> Path:
        """The folder of registry drafts that officers elsewhere have to sign."""
        return self.root / "drafts"

    @property
    def server(self) -> Path:
        """The coordinator's home, of many runs."""
        return self.root / "server"

    def home(self, run: str | None = None) -> ServerHome:
        """The coordinator's home, for one run or for what all share."""
        return ServerHome(self.server, run)

    @property
    def superlink(self) -> Path:
        """The SuperLink's own folder."""
        return self.root / "superlink"

    @property
    def database(self) -> Path:
        """Flower's database of nodes, runs and messages: it outlives the process."""
        return self.superlink / "state.db"

    @property
    def coordinator(self) -> Path:
        """The folder of what the coordinator's processes keep beside their home."""
        return self.root / "coordinator"

    @property
    def queue(self) -> Path:
        """The folder of runs that were submitted, and of how far each is."""
        return self.coordinator / "queue"

    @property
    def schedules(self) -> Path:
        """The folder of schedules of retraining."""
        return self.coordinator / "schedules"

    def secret(self, folder: Path) -> Path:
        """Flower's SuperExec secret, as the user of that folder has it."""
        return folder / "superexec.secret"

    def token(self, folder: Path) -> Path:
        """The admin port's token, as the user of that folder has it."""
        return folder / "control.token"

    @classmethod
    def read(cls, root: Path) -> Deployment:
        """Opens an existing deployment's folder.

        Raises:
            InputError: It is none.
        """
        found = cls(root)
        if not found.config.is_file():
            raise InputError(
                f"{root} is not a deployment: there is no {CONFIG_NAME} in it.",
                remedy="Make one: fedpref-server provision FEDERATION.toml FOLDER.",
            )
        return found
