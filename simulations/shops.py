"""Three made-up shops that could found a federation: stores, answers, consents, declaration.

What a real federation has before its first command: each region's store and what its operator
decides, and the founders' ``federation.toml``. The data are those of the scenario synthetic-3.
"""

from __future__ import annotations

import csv
import io
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import tomli_w

from common.errors import InputError, StorageError
from common.timestamps import format_time, now_ms
from simulations.customers import draw_choices
from simulations.prepared import PreparedRegion
from simulations.scenarios import find_scenario

FEDERATION = "shops.example"
CONFIG_NAME = "federation.toml"
ANSWERS_NAME = "region.toml"

_SCENARIO = "synthetic-3"
_PORT, _ADMIN_PORT = 9443, 9444
_LOCATIONS = ("52.5,13.4", "48.9,2.4", "53.3,-6.3")
_EPSILON, _YEARLY, _DELTA = "3", "12", "0.000001"
_DAY_MS = 24 * 3600 * 1000

_NOTICE = """\
notice_id = "pn-1-{region}"
lang = "en"
in_force_from = "{in_force_from}"
controller = "{region}.{federation}"
purposes = [
  "fedpref:FederatedTraining",
  "dpv:ProvideProductRecommendations",
  "fedpref:FederatedAnalytics",
  "fedpref:CustomerProfiling",
]
recipients = "The regions and the coordinator of {federation}: noised sums, and the sizes and \
times of this region's log."
retention = "Purchases: 24 months. Consent records: 10 years."
storage = "The data centre of {region}."
contact = "privacy@{region}.{federation}"
text = "We would like to learn what our customers prefer from the purchases you make with us. Your \
purchases stay in this data centre. Sums over many customers leave it, with noise added to them, \
which limits what anyone can learn from them about you by a privacy budget that is stated for each \
training. The size and the times of our log of choices leave too, not noised: they tell how many \
have chosen, not who. You may withdraw at any time; from the next round on your purchases are no \
longer used. What was learnt before stays in the model."
"""


def make_shops(
    out: Path, *, seed: int = 1, port: int = _PORT, admin_port: int = _ADMIN_PORT
) -> list[Path]:
    """Writes the shops: whole, or not at all.

    Args:
        out: A folder that is not there yet, or is empty.
        seed: Seed of all that is drawn.
        port: The port that regions are to connect to.
        admin_port: The coordinator's loopback port.

    Returns:
        The regions' folders of answers.

    Raises:
        InputError: ``out`` is not empty.
        StorageError: The disk refuses.
    """
    out = out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty.", remedy="Name a folder that is not there yet.")
    building: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        # Stores are read by the engines' users, if these are others.
        building.chmod(0o755)
        names = _fill(building, seed, port, admin_port)
        if out.exists():
            out.rmdir()
        building.rename(out)
        building = None
    except OSError as error:
        raise StorageError(f"{out} cannot be written: {error.strerror}.") from error
    finally:
        if building is not None:
            shutil.rmtree(building, ignore_errors=True)
    return [out / name for name in names]


def _fill(out: Path, seed: int, port: int, admin_port: int) -> list[str]:
    scenario = find_scenario(_SCENARIO)
    prepared = scenario.prepare(out, seed=seed)
    for number, region in enumerate(prepared.regions):
        _write_answers(out / region.name, region, number, seed)
    names = [region.name for region in prepared.regions]
    windows = scenario.windows
    run = {
        "epsilon": _EPSILON,
        "delta": _DELTA,
        "rounds": 3,
        "aggregation": "secure-sum",
        "train_from": format_time(windows.train_from_ms),
        "train_until": format_time(windows.train_until_ms),
        "planned_customers": scenario.planned_customers,
        "round_timeout_s": 120,
    }
    declaration = {
        "federation": {
            "name": FEDERATION,
            "catalogue": "catalogue.parquet",
            # A secure sum is of at least three regions, or it would tell one of them of another.
            "quorum": len(names),
            "witness_quorum": scenario.witness_quorum,
            "epsilon_per_year": _YEARLY,
        },
        "server": {"hosts": ["127.0.0.1", "localhost"], "port": port, "admin_port": admin_port},
        "regions": [
            {"name": name, "jurisdiction": jurisdiction, "location": location}
            for name, jurisdiction, location in zip(
                names, scenario.jurisdictions, _LOCATIONS, strict=True
            )
        ],
        "run": {"first": run, "second": run},
    }
    (out / CONFIG_NAME).write_text(tomli_w.dumps(declaration), encoding="utf-8")
    return names


def _write_answers(folder: Path, region: PreparedRegion, number: int, seed: int) -> None:
    answers = {
        "source": {
            "kind": "files",
            "path": "data/transactions.parquet",
            "time_zone": "UTC",
            "columns": {
                "customer": "customer",
                "item": "item",
                "time": "bought_at",
                "basket": "basket",
            },
        },
        "policy": {
            "purpose": "fedpref:FederatedTraining",
            "epsilon_cap_per_year": _YEARLY,
            "delta_max": _DELTA,
            "noise_multiplier_min": "0.1",
            "clipping_norm_max": "1",
            "rounds_max": 16,
            "quorum_min": 3,
            "quality_threshold": "0.98",
            "consent_age_max_s": 600,
            "withdrawal_in_round": "finish",
            "notice_grace_s": 30 * 86_400,
            "modes": ["local"],
            "aggregations": ["confidential"],
        },
        "form": {
            "legal_basis": "eu-gdpr:A6-1-a",
            "withdrawal": f"https://{region.name}.{FEDERATION}/privacy",
        },
        "notice": {"file": "notice.toml"},
        "consents": {"file": "consents.csv", "grant": ["training", "recommendations"]},
    }
    (folder / ANSWERS_NAME).write_text(tomli_w.dumps(answers), encoding="utf-8")
    notice = _NOTICE.format(
        region=region.name, federation=FEDERATION, in_force_from=format_time(_days_ago(60))
    )
    (folder / "notice.toml").write_text(notice, encoding="utf-8")
    store = pd.read_parquet(folder / "data" / "transactions.parquet", columns=["customer"])
    customers = sorted(str(customer) for customer in store["customer"].unique())
    (folder / "consents.csv").write_text(_consents(customers, number, seed), encoding="utf-8")


def _days_ago(days: int) -> int:
    return (now_ms() // _DAY_MS - days) * _DAY_MS


def _consents(customers: Sequence[str], number: int, seed: int) -> str:
    """The shop's own list of who consented on paper, before there was a federation."""
    scenario = find_scenario(_SCENARIO)
    choices = draw_choices(
        customers,
        refusal_share=scenario.refusal_share,
        withdrawal_share=0.0,
        rounds=1,
        seed=(seed, number),
    )
    asked_at = format_time(_days_ago(30))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["customer", "event_time", "evidence", "state"])
    for place, customer in enumerate(customers):
        state = "refused" if customer in choices.refusing else "given"
        writer.writerow([customer, asked_at, f"form {place + 1:05d}", state])
    return text.getvalue()
