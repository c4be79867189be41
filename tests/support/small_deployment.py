"""A federation small enough to be provisioned in a test: three shops, a few customers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import tomli_w

from client.installation.composed_settings import read_answers
from client.installation.installing import InstalledRegion, install_kit
from common.catalogue import Catalogue
from server.deployment import Deployment
from server.provisioning.federation_config import FederationConfig
from server.provisioning.provision import provision

NAME = "small.example"
REGIONS = ("region-1", "region-2", "region-3")
BUNDLE = b"not a bundle, but bytes with a digest"
CUSTOMERS = tuple(f"customer-{number}" for number in range(6))
ITEMS = tuple(f"item-{number:02d}" for number in range(12))


@pytest.fixture(autouse=True, scope="module")
def one_user() -> Iterator[None]:
    """Lets a module's tests act as an ordinary user does, also where root runs them.

    A real deployment with a user for each process is what tests/deployment has.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "geteuid", lambda: 1000)
        yield


def declaration(**changes: dict[str, object]) -> dict[str, object]:
    """A ``federation.toml`` as a dictionary; tables named in ``changes`` are updated."""
    tables: dict[str, dict[str, object]] = {
        "federation": {
            "name": NAME,
            "quorum": 3,
            "witness_quorum": 2,
            "epsilon_per_year": "9",
        },
        "server": {"hosts": ["127.0.0.1", "localhost"], "port": 9443, "admin_port": 9444},
        "run": {"first": run_table()},
    }
    for name, change in changes.items():
        tables.setdefault(name, {}).update(change)
    regions = [{"name": name, "jurisdiction": "DE"} for name in REGIONS]
    return {**tables, "regions": regions}


def run_table(**changes: object) -> dict[str, object]:
    """The settings of a run."""
    return {
        "epsilon": "3",
        "rounds": 2,
        "aggregation": "secure-sum",
        "train_from": "2024-01-01T00:00:00.000Z",
        "train_until": "2024-07-01T00:00:00.000Z",
        "planned_customers": 60,
        **changes,
    }


def write_shops(folder: Path, tables: dict[str, object] | None = None) -> Path:
    """Writes declaration, catalogue and answers; gives the declaration's path."""
    folder.mkdir(parents=True, exist_ok=True)
    Catalogue.of(ITEMS, category=["food"] * len(ITEMS)).save(folder / "catalogue.parquet")
    path = folder / "federation.toml"
    path.write_text(tomli_w.dumps(tables or declaration()))
    for region in REGIONS:
        write_answers(folder / region, region)
    return path


def write_answers(folder: Path, region: str) -> None:
    """Writes one region's answers: settings, store, notice, consents."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "region.toml").write_text(tomli_w.dumps(answers()))
    (folder / "notice.toml").write_text(
        f'notice_id = "pn-{region}"\nlang = "en"\ncontroller = "{region}.{NAME}"\n'
        'in_force_from = "2024-01-01T00:00:00.000Z"\n'
        'purposes = ["fedpref:FederatedTraining", "dpv:ProvideProductRecommendations"]\n'
        'recipients = "r"\nretention = "24 months"\nstorage = "here"\ncontact = "c"\ntext = "t"\n'
    )
    sales = ["customer,item,bought_at"]
    consents = ["customer,event_time,evidence,state"]
    for number, customer in enumerate(CUSTOMERS):
        sales += [
            f"{customer},{ITEMS[(number + day) % len(ITEMS)]},2024-02-{day + 1:02d}T10:00:00Z"
            for day in range(5)
        ]
        state = "given" if number else "refused"
        consents.append(f"{customer},2024-01-15T00:00:00Z,form {number},{state}")
    (folder / "sales.csv").write_text("\n".join(sales) + "\n")
    (folder / "consents.csv").write_text("\n".join(consents) + "\n")


def answers() -> dict[str, object]:
    """What an operator answers."""
    return {
        "source": {
            "kind": "files",
            "path": "sales.csv",
            "columns": {"customer": "customer", "item": "item", "time": "bought_at"},
        },
        "policy": {
            "purpose": "fedpref:FederatedTraining",
            "epsilon_cap_per_year": "9",
            "delta_max": "0.000001",
            "noise_multiplier_min": "0.1",
            "clipping_norm_max": "1",
            "rounds_max": 16,
            "quorum_min": 3,
            "quality_threshold": "0.9",
            "consent_age_max_s": 600,
            "withdrawal_in_round": "finish",
            "notice_grace_s": 86_400,
            "modes": ["local"],
        },
        "form": {"legal_basis": "eu-gdpr:A6-1-a", "withdrawal": "https://small.example/w"},
        "notice": {"file": "notice.toml"},
        "consents": {"file": "consents.csv", "grant": ["training"]},
    }


def provisioned(
    folder: Path, tables: dict[str, object] | None = None
) -> tuple[Deployment, FederationConfig]:
    """Provisions it, with a bundle that is not built."""
    bundle = folder / "bundle.fab"
    config = write_shops(folder / "shops", tables)
    bundle.write_bytes(BUNDLE)
    done = provision(config, folder / "deployment", app=bundle)
    return done.deployment, done.config


def installed(folder: Path, regions: Sequence[str] = REGIONS) -> list[InstalledRegion]:
    """Installs kits of what `provisioned` made."""
    return [
        install_kit(
            folder / "deployment" / "kits" / f"{region}.kit",
            folder / "regions",
            answers_of=lambda name: read_answers(folder / "shops", name),
            root_key_ids=(),
        )
        for region in regions
    ]
