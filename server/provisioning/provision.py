"""Sets up a federation's coordinator from its declaration: whole, or not at all.

It makes the CA and the certificate of the regions' port, the officers' root keys, the coordinator's
own keys, the secrets between its processes, the app bundle, and a start-up kit for each region. No
region's key is among them: regions make their own.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from common.audit.witness.store import WitnessStore
from common.catalogue import Catalogue
from common.durable_file import sync_folder, write_durably
from common.errors import InputError, StorageError
from common.key_rotation import make_key, new_passphrase
from common.key_store import KeyStore
from common.signatures import Signer
from server.config import SERVER_PARTY
from server.deployment import Deployment
from server.provisioning.certificates import KeyPair, make_ca, make_server_certificate
from server.provisioning.federation_config import FederationConfig, parse_federation
from server.provisioning.kits import write_kit
from server.provisioning.officers import make_officers, write_roots

SERVER_ROLES = ("log", "aggregator", "witness")
CA_PASSPHRASE = "passphrase"  # noqa: S105 - the name of a file
_SECRET_BYTES = 32
_PUBLIC = 0o644


@dataclass(frozen=True)
class Provisioned:
    """What was set up.

    Attributes:
        deployment: Where.
        config: The federation.
        root_key_ids: The officers' root keys: every party's trust anchor.
        app_sha256: SHA-256 of the app bundle, in hex.
    """

    deployment: Deployment
    config: FederationConfig
    root_key_ids: tuple[str, ...]
    app_sha256: str


def provision(declaration: Path, target: Path, *, app: Path | None = None) -> Provisioned:
    """Sets a federation's coordinator up in a new folder.

    Args:
        declaration: The federation's ``federation.toml``.
        target: A folder that is not there yet, or is empty.
        app: The app bundle's file; by default it is built from this checkout.

    Raises:
        InputError: The declaration, the catalogue or the bundle is missing or malformed, or
            ``target`` is not empty.
        StorageError: The disk is full or refuses; nothing is left at ``target``.
    """
    text = _read(declaration, "federation's declaration")
    config = parse_federation(text, declaration)
    catalogue = _catalogue_of(config, declaration)
    target = target.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(
            f"{target} is not empty.",
            remedy="Name a folder that is not there yet; a deployment is never set up twice.",
        )
    bundle = _read(app, "app bundle") if app is not None else _built_bundle()
    building: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        building.chmod(0o755)
        root_key_ids = _fill(Deployment(building), config, text, catalogue, bundle)
        if target.exists():
            target.rmdir()
        building.rename(target)
        building = None
        sync_folder(target.parent)
    except OSError as error:
        raise StorageError(
            f"The deployment cannot be written to {target}: {error.strerror}.",
            remedy="Free disk space or correct the folder's mode; then provision again.",
        ) from error
    finally:
        if building is not None:
            shutil.rmtree(building, ignore_errors=True)
    return Provisioned(Deployment(target), config, root_key_ids, hashlib.sha256(bundle).hexdigest())


def make_certificate(deployment: Deployment, config: FederationConfig) -> None:
    """Makes the certificate of the regions' port anew; the running SuperLink takes it at a restart.

    Raises:
        InputError: The CA's key is not at hand, or does not open.
    """
    passphrase = _read(deployment.ca / CA_PASSPHRASE, "CA's passphrase").strip()
    pair = make_server_certificate(
        KeyPair(
            _read(deployment.ca_certificate, "CA's certificate"),
            _read(deployment.ca_key, "CA's key"),
        ),
        passphrase=passphrase,
        hosts=config.server.hosts,
        days=config.server.certificate_days,
    )
    # The key first: a certificate that is there has its key. A crash between leaves a pair that
    # does not match, which the SuperLink names, and the same command mends.
    write_durably(deployment.certificate_key, pair.key)
    write_durably(deployment.certificate, pair.certificate, mode=_PUBLIC)


def make_secrets(deployment: Deployment) -> None:
    """Draws the SuperExec secret and the admin port's token anew, for both users that need them."""
    secret, token = secrets.token_hex(_SECRET_BYTES), secrets.token_hex(_SECRET_BYTES)
    for folder in (deployment.superlink, deployment.coordinator):
        write_durably(deployment.secret(folder), f"{secret}\n".encode())
        write_durably(deployment.token(folder), f"{token}\n".encode())


def bundle_sha256(deployment: Deployment) -> str:
    """SHA-256 of the deployment's app bundle, in hex.

    Raises:
        InputError: It is missing.
    """
    return hashlib.sha256(_read(deployment.bundle, "app bundle")).hexdigest()


def _fill(
    deployment: Deployment,
    config: FederationConfig,
    text: bytes,
    catalogue: bytes,
    bundle: bytes,
) -> tuple[str, ...]:
    private = (
        deployment.ca,
        deployment.tls,
        deployment.server,
        deployment.superlink,
        deployment.coordinator,
        deployment.queue,
        deployment.schedules,
    )
    for folder in private:
        folder.mkdir(mode=0o700)
    for folder in (deployment.bundle.parent, deployment.nodes, deployment.drafts):
        folder.mkdir(mode=0o755)
    write_durably(deployment.config, text, mode=_PUBLIC)
    write_durably(deployment.catalogue, catalogue, mode=_PUBLIC)
    write_durably(deployment.bundle, bundle, mode=_PUBLIC)
    passphrase = new_passphrase()
    ca = make_ca(config.federation.name, passphrase=passphrase)
    write_durably(deployment.ca / CA_PASSPHRASE, passphrase + b"\n")
    write_durably(deployment.ca_key, ca.key)
    write_durably(deployment.ca_certificate, ca.certificate, mode=_PUBLIC)
    make_certificate(deployment, config)
    make_secrets(deployment)
    _make_home(deployment)
    officers: list[Signer] = make_officers(
        deployment.officers,
        officers=config.federation.officers,
        threshold=config.federation.threshold,
    )
    write_roots(deployment, officers)
    roots = {officer.key_id: officer.public_key for officer in officers}
    for region in config.regions:
        write_kit(
            deployment,
            config,
            region.name,
            officers=officers[: config.federation.threshold],
            root_keys=roots,
            app_sha256=hashlib.sha256(bundle).hexdigest(),
        )
    return tuple(roots)


def _make_home(deployment: Deployment) -> None:
    home = deployment.home()
    store = KeyStore(home.keys, SERVER_PARTY)
    for role in SERVER_ROLES:
        make_key(store, role)
    home.registry.mkdir(mode=0o755)
    (home.root / "runs").mkdir(mode=0o755)
    WitnessStore.open(home.witness, create=True).close()


def _catalogue_of(config: FederationConfig, declaration: Path) -> bytes:
    path = declaration.parent / config.federation.catalogue
    Catalogue.load(path)
    return _read(path, "public catalogue")


def _built_bundle() -> bytes:
    from server.app_bundle import build_app_bundle, stage_app

    with tempfile.TemporaryDirectory(prefix="fedpref-app-") as folder:
        staged = Path(folder) / "app"
        stage_app(staged)
        return build_app_bundle(staged)


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"The {what} {path} cannot be read: {error.strerror}.") from error
