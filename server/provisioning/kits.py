"""Making the regions' start-up kits."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from importlib import resources

import jinja2

from common.catalogue import Catalogue
from common.durable_file import make_folder_durably, write_durably
from common.errors import InputError
from common.key_files import read_private
from common.kit import (
    CA_CERTIFICATE,
    CATALOGUE,
    EXAMPLE,
    README,
    SUFFIX,
    TOKEN,
    TOKEN_BYTES,
    KitFacts,
    make_kit,
)
from common.messages import PROTOCOL_VERSION
from common.signatures import Signer
from common.timestamps import now
from server.deployment import Deployment
from server.provisioning.federation_config import FederationConfig

_TOKEN_SUFFIX = ".token"  # noqa: S105 - the end of a file's name


def write_kit(
    deployment: Deployment,
    config: FederationConfig,
    region: str,
    *,
    officers: Sequence[Signer],
    root_keys: dict[str, bytes],
    app_sha256: str,
) -> None:
    """Makes one region's kit and the token it is answered by; an earlier kit of it is replaced.

    Args:
        deployment: The deployment.
        config: The federation.
        region: The region.
        officers: Root keys that sign, at least as many as the threshold.
        root_keys: All root keys by key id.
        app_sha256: SHA-256 of the app bundle, in hex.
    """
    declared = config.region(region)
    catalogue = Catalogue.load(deployment.catalogue)
    facts = KitFacts(
        federation=config.federation.name,
        region=region,
        jurisdiction=declared.jurisdiction,
        issued_at=now(),
        address=config.server.address,
        server_name=config.server.hosts[0],
        root_keys=root_keys,
        root_threshold=config.federation.threshold,
        witness_quorum=config.federation.witness_quorum,
        catalogue_sha256=catalogue.digest,
        n_items=catalogue.n_items,
        app_sha256=app_sha256,
        protocol=PROTOCOL_VERSION,
    )
    token = secrets.token_hex(TOKEN_BYTES)
    files = {
        CA_CERTIFICATE: deployment.ca_certificate.read_bytes(),
        CATALOGUE: deployment.catalogue.read_bytes(),
        EXAMPLE: _example(facts),
        README: _readme(facts),
        TOKEN: f"{token}\n".encode(),
    }
    for folder in (deployment.tokens, deployment.kits):
        make_folder_durably(folder)
    # The token first: a kit that is there can be answered.
    write_durably(deployment.tokens / f"{region}{_TOKEN_SUFFIX}", f"{token}\n".encode())
    write_durably(deployment.kits / f"{region}{SUFFIX}", make_kit(facts, files, officers))


def kit_token(deployment: Deployment, region: str) -> bytes:
    """The token that a region's kit is answered by.

    Raises:
        InputError: No kit was made for it, or the token was used up.
    """
    path = deployment.tokens / f"{region}{_TOKEN_SUFFIX}"
    if not path.exists():
        raise InputError(
            f"There is no kit of {region} that could be answered.",
            remedy=f"Make one: fedpref-server join {deployment.root} {region} …",
        )
    return bytes.fromhex(read_private(path, "enrolment token").decode("ascii").strip())


def use_up_token(deployment: Deployment, region: str) -> None:
    """Makes a kit unanswerable: it has been answered, or must not be any more."""
    (deployment.tokens / f"{region}{_TOKEN_SUFFIX}").unlink(missing_ok=True)


def _readme(facts: KitFacts) -> bytes:
    return _render("kit-readme.md.j2", facts)


def _example(facts: KitFacts) -> bytes:
    return _render("region.toml.j2", facts)


def _render(name: str, facts: KitFacts) -> bytes:
    source = resources.files("server.provisioning").joinpath(f"templates/{name}").read_text("utf-8")
    # Markdown and TOML, from facts that were checked: nothing here is HTML.
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - see above
        keep_trailing_newline=True,
    )
    return environment.from_string(source).render(facts=facts).encode()
