"""A20 to A23 and A25: attacks on budget, training sets, the model's chain and the files."""

from __future__ import annotations

from collections.abc import Callable

from common.audit.sparse_merkle import SparseMerkleTree, position
from common.consent import FEDERATED_TRAINING
from server.config import SERVER_PARTY
from simulations.attacks.attack import Mark
from simulations.attacks.forgery import Forgery, Record


def understate_epsilon(forgery: Forgery) -> Mark:
    """A20: a charge states half of the ε that its own parameters give."""
    region = forgery.region
    index = forgery.find(region, "charge")[-1]

    def halve(record: Record) -> None:
        for name in ("epsilon_run", "epsilon_total"):
            record[name] = f"{float(record[name]) / 2:.6f}"

    forgery.change(region, index, halve)
    return Mark(frozenset({"epsilon-understated", "epsilon"}), party=region, index=index)


def release_uncharged(forgery: Forgery) -> Mark:
    """A21: the last round's charge is taken out of the log; its release stays."""
    region = forgery.region
    charge = forgery.find(region, "charge")[-1]
    charge_id = forgery.record(region, charge)["charge_id"]
    del forgery.entries[region][charge]
    (release,) = forgery.find(region, "release", charge_id=charge_id)
    return Mark(frozenset({"no-charge"}), party=region, index=release)


def train_on_withdrawn(forgery: Forgery) -> Mark:
    """A22: the last round's training set has everybody who ever consented, the withdrawn too."""
    region = forgery.region
    index = forgery.find(region, "round")[-1]
    last = forgery.record(region, index)
    sids = {
        forgery.record(region, each)["sid"]
        for each in forgery.find(region, "consent")
        if each < last["consent"]["size"]
        and forgery.record(region, each)["purposes"].get(FEDERATED_TRAINING) is True
    }

    def widen(record: Record) -> None:
        nonce = bytes.fromhex(record["train"]["nonce"])
        tree = SparseMerkleTree([position(nonce, bytes.fromhex(sid)) for sid in sids])
        low = 1 << (len(sids).bit_length() - 1)
        record["train"] |= {"root": tree.root.hex(), "n_bucket": f"{low}-{2 * low - 1}"}

    forgery.change(region, index, widen)
    return Mark(frozenset({"eligible-set"}), party=region, index=index)


def break_model_chain(forgery: Forgery) -> Mark:
    """A23: the coordinator's last aggregate begins with another model than the one before ended."""
    index = forgery.find(SERVER_PARTY, "aggregate")[-1]
    forgery.change(SERVER_PARTY, index, lambda record: record.update(model_in="ab" * 32))
    return Mark(frozenset({"model-chain"}), party=SERVER_PARTY, index=index)


def swap_file(forgery: Forgery) -> Mark:
    """A25: the published model is swapped, one file is added and one removed."""
    forgery.stale["model.safetensors"] = b"another model"
    forgery.stale["bundle/logs/notes.txt"] = b"x"
    forgery.stale["bundle/plan.json"] = None
    return Mark(frozenset({"file-changed"}), file="model.safetensors")


#: Each attack of this module by its id, with a few words on it.
ATTACKS: tuple[tuple[str, str, Callable[[Forgery], Mark]], ...] = (
    ("A20", "charge states less ε than its parameters give", understate_epsilon),
    ("A21", "release without its charge", release_uncharged),
    ("A22", "withdrawn customers in the training set", train_on_withdrawn),
    ("A23", "model chain broken", break_model_chain),
    ("A25", "files swapped, added and removed", swap_file),
)
