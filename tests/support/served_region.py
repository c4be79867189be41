"""A region with a store, consents and a published model, as a recommender finds them.

The coordinator's log is made by hand: its entries, its checkpoint, and one witness's cosignature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from client.consent_service.registrar import Choice
from client.engine.home import RegionHome
from client.recommend.recommender import Recommender
from client.recommend.release import (
    CURRENT_NAME,
    ENTRY_NAME,
    MODEL_NAME,
    PROOF_NAME,
    release_folder,
)
from client.recommend.settings import RecommendSettings
from common import canonical_json
from common.audit.checkpoint import Checkpoint, add_cosignature, sign_note
from common.audit.entry import make_entry
from common.audit.merkle import inclusion_proof, leaf_hash, root_hash
from common.audit.proof_file import LogProof
from common.catalogue import Catalogue
from common.consent import RECOMMENDATIONS
from common.parameters import arrays_digest, save_arrays
from common.plan import RunPlan
from common.timestamps import format_time, now_ms
from tests.support.memory_signer import MemorySigner
from tests.support.preference_data import END_MS, plan_of
from tests.support.region_home import (
    ALL,
    FEDERATION,
    REGION,
    SERVER_LOG,
    make_region_home,
    open_home,
)

WEEK_MS = 7 * 86_400_000
AGGREGATOR = MemorySigner("server's aggregator")
WITNESS = MemorySigner("an outside witness")
#: Another region's: it cosigns, too, but one witness is enough.
OTHERS = (("server", "aggregator", AGGREGATOR), ("witness", "witness", WITNESS))
SETTINGS = RecommendSettings.model_validate({"history": {"until": "model"}})

N_ITEMS = 60
KINDS = ("bread", "cheese", "fruit", "phones", "tea", "wine")
CATALOGUE = Catalogue.of(
    [f"item-{number:02d}" for number in range(N_ITEMS)],
    category=[KINDS[number % 6] for number in range(N_ITEMS)],
    product_type=[f"{KINDS[number % 6]} {number % 12 // 6}" for number in range(N_ITEMS)],
)
SOURCE = """\
kind = "files"
path = "sales.csv"
time_zone = "UTC"

[columns]
customer = "who"
item = "what"
time = "when"
"""

Arrays = dict[str, npt.NDArray[np.generic]]
# Customer, item number, weeks before the end of the model's window.
Sale = tuple[str, int, float]
#: ``ada`` buys bread and cheese, ``bo`` fruit; ``cy`` buys phones and consents to nothing.
SALES: tuple[Sale, ...] = (
    *(("ada", item, float(week)) for item in (0, 1, 6, 7, 12) for week in (1, 5, 9)),
    ("ada", 18, 20.0),
    *(("bo", item, float(week)) for item in (2, 8, 14, 20) for week in (2, 6)),
    *(("cy", item, 3.0) for item in (3, 9, 15)),
)


def model_arrays(plan: RunPlan, *, seed: int = 0) -> Arrays:
    """A model of the plan's form: popular items first, and items of a kind alike."""
    generator = np.random.default_rng(seed)
    size, rank = plan.vocabulary_size, plan.rank
    vocabulary = np.arange(size)
    factors = generator.normal(0.0, 0.05, (size, rank))
    factors[vocabulary, vocabulary % min(6, rank)] += 1.0
    return {
        "popularity": np.linspace(60.0, 1.0, plan.n_items).astype("<f4"),
        "vocabulary": vocabulary.astype("<i8"),
        "item_weights": np.linspace(0.5, 1.0, size).astype("<f4"),
        "item_factors": factors.astype("<f4"),
    }


def model_plan(catalogue: Catalogue = CATALOGUE, **changes: Any) -> RunPlan:
    """A plan over a catalogue, with the region in it."""
    record: dict[str, Any] = plan_of(
        n_items=catalogue.n_items, catalogue=catalogue.digest, regions=(REGION, "region-2")
    ).to_record()
    fixed = {"federation": FEDERATION, "vocabulary_size": 24, "rank": 6}
    return RunPlan.from_record({**record, **fixed, **changes})


@dataclass
class PublishedFiles:
    """A published model's four files, made of parts that a test can replace."""

    plan: RunPlan
    arrays: Arrays
    entry_fields: Mapping[str, Any] = field(default_factory=dict)
    signer: MemorySigner = AGGREGATOR
    log_signer: MemorySigner = SERVER_LOG
    witnesses: Sequence[tuple[str, MemorySigner]] = (("witness", WITNESS),)
    origin: str = f"{FEDERATION}/server"
    before: int = 3
    at_ms: int = field(default_factory=now_ms)

    @property
    def digest(self) -> str:
        return arrays_digest(self.arrays)

    def files(self) -> dict[str, bytes]:
        record = {
            "v": "fedpref-model/1",
            "run": self.plan.run_id,
            "model": self.digest,
            "rounds": self.plan.total_rounds,
            "plan": self.plan.digest,
            "catalogue": self.plan.catalogue,
            "time": format_time(self.at_ms),
            **self.entry_fields,
        }
        entry = make_entry(record, self.signer)
        leaves = [leaf_hash(b"%d" % number) for number in range(self.before)]
        leaves.append(leaf_hash(entry))
        head = Checkpoint(self.origin, len(leaves), root_hash(leaves))
        note = sign_note(head.body(), self.origin, self.log_signer)
        for party, signer in self.witnesses:
            note = add_cosignature(note.encode(), party, signer, time_s=self.at_ms // 1000)
        proof = LogProof(
            self.before, tuple(inclusion_proof(leaves, self.before, len(leaves))), note.encode()
        )
        return {
            MODEL_NAME: save_arrays(self.arrays),
            "plan.json": canonical_json.encode(self.plan.to_record(), max_bytes=1 << 20),
            ENTRY_NAME: entry,
            PROOF_NAME: proof.encode(),
        }

    def put(self, home: RegionHome, *, digest: str | None = None, **files: bytes) -> str:
        """Writes them as `install_release` does; some may be replaced."""
        named = digest or self.digest
        folder = release_folder(home) / named
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in {**self.files(), **files}.items():
            (folder / name).write_bytes(data)
        current = {"v": "fedpref-served-model/1", "model": named, "log_index": self.before}
        (release_folder(home) / CURRENT_NAME).write_bytes(canonical_json.encode(current))
        return named


def write_store(home: RegionHome, sales: Sequence[Sale]) -> None:
    """Writes the region's store."""
    rows = ["who,what,when"]
    for number, (customer, item, weeks) in enumerate(sales):
        at_ms = END_MS - round(weeks * WEEK_MS) + number
        rows.append(f"{customer},{CATALOGUE.items[item]},{format_time(at_ms)}")
    home.source.parent.mkdir(exist_ok=True)
    home.source.write_text(SOURCE)
    (home.source.parent / "sales.csv").write_text("\n".join(rows) + "\n")


def make_served_region(
    root: Path,
    *,
    sales: Sequence[Sale] = SALES,
    consenting: Sequence[str] = ("ada", "bo", "new"),
    plan: RunPlan | None = None,
    catalogue: Catalogue = CATALOGUE,
) -> RegionHome:
    """Makes a region that can be served: ``new`` consents and has bought nothing."""
    home = make_region_home(root, others=OTHERS, witness_quorum=1)
    catalogue.save(home.catalogue)
    write_store(home, sales)
    plan = plan or model_plan()
    PublishedFiles(plan, model_arrays(plan)).put(home)
    choose(home, *(Choice.give(customer, ALL) for customer in consenting))
    choose(home, *(Choice.refuse(customer) for customer in ("cy",) if customer not in consenting))
    return home


def choose(home: RegionHome, *choices: Choice) -> None:
    """Records customers' choices, as the process that owns the log does."""
    if choices:
        with open_home(home) as opened:
            opened.registrar.record(choices)


def withdraw(home: RegionHome, customer: str) -> None:
    """A customer withdraws."""
    choose(home, Choice.withdraw(customer))


def without_recommendations(home: RegionHome, customer: str) -> None:
    """A customer chooses anew: everything but recommendations."""
    choose(home, Choice.give(customer, {**ALL, RECOMMENDATIONS: False}))


def opened(home: RegionHome, settings: RecommendSettings = SETTINGS, **options: Any) -> Recommender:
    """The region's recommender; histories end where the model's window does."""
    return Recommender.open(home, settings, **options)
