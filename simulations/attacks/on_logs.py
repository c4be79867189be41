"""A1 to A6 and A17: attacks on the shape of a log, and entries taken from elsewhere."""

from __future__ import annotations

from collections.abc import Callable

from common.consent import FEDERATED_TRAINING, GIVEN, REFUSED, WITHDRAWN, new_ulid
from common.errors import InputError
from common.timestamps import format_time, now_ms
from server.config import SERVER_PARTY
from simulations.attacks.attack import Mark
from simulations.attacks.forgery import Forgery, Record

_REWRITTEN = frozenset({"split-view", "tree-root"})


def truncate_tail(forgery: Forgery) -> Mark:
    """A1: the region's last round is cut off, and what is left is signed anew."""
    region = forgery.region
    del forgery.entries[region][forgery.find(region, "round")[-1] :]
    return Mark(frozenset({"log-truncated"}), party=region)


def roll_back(forgery: Forgery) -> Mark:
    """A2: an old copy of the database, with the genuine, cosigned checkpoint of its time."""
    region, folder = forgery.region, f"logs/{forgery.region}"
    places = [name.removeprefix(f"{folder}/checkpoints/") for name in forgery.files]
    sizes = sorted(int(place) for place in places if place.isdigit())
    old = sizes[len(sizes) // 2]
    del forgery.entries[region][old:]
    for size in sizes:
        name = f"{folder}/checkpoints/{size}"
        if size <= old:
            forgery.overrides[name] = forgery.files[name]
    forgery.overrides[f"{folder}/checkpoint"] = forgery.files[f"{folder}/checkpoints/{old}"]
    return Mark(frozenset({"log-truncated"}), party=region)


def reorder(forgery: Forgery) -> Mark:
    """A3: two customers' first choices change places."""
    first, second = forgery.find(forgery.region, "consent", seq=1)[:2]
    log = forgery.entries[forgery.region]
    log[first], log[second] = log[second], log[first]
    return Mark(_REWRITTEN, party=forgery.region)


def replace(forgery: Forgery) -> Mark:
    """A4: a refusal becomes a consent, signed with the region's genuine key."""
    index = forgery.find(forgery.region, "consent", state=REFUSED)[0]

    def grant(record: Record) -> None:
        record.update(state=GIVEN, purposes={FEDERATED_TRAINING: True})

    forgery.change(forgery.region, index, grant)
    return Mark(_REWRITTEN, party=forgery.region)


def insert(forgery: Forgery) -> Mark:
    """A5: a consent that nobody gave is put between the genuine ones."""
    index = forgery.find(forgery.region, "consent", state=GIVEN)[0]
    invented = forgery.record(forgery.region, index) | {
        "sid": "ab" * 32,
        "record_id": new_ulid(),
    }
    forgery.entries[forgery.region].insert(index, forgery.sign(forgery.region, invented))
    return Mark(_REWRITTEN, party=forgery.region)


def fork(forgery: Forgery) -> Mark:
    """A6: the auditor is shown a history without the withdrawals; the witnesses saw the other."""
    region = forgery.region
    leaving = forgery.find(region, "consent", state=WITHDRAWN)
    kept = [data for i, data in enumerate(forgery.entries[region]) if i not in leaving]
    filler: Record = {
        "v": "fedpref-incident/1",
        "run": None,
        "round": None,
        "region": region,
        "party": region,
        "reason": "maintenance",
        "detail": "Nothing of note.",
        "time": format_time(now_ms()),
    }
    # Of the same size: only the content tells the two histories apart.
    kept += [forgery.sign(region, filler) for _ in leaving]
    forgery.entries[region][:] = kept
    return Mark(_REWRITTEN, party=region)


def replay_elsewhere(forgery: Forgery) -> Mark:
    """A17: another region's genuine round entry stands in this region's log."""
    region = forgery.region
    others = [p for p in forgery.entries if p not in (region, SERVER_PARTY)]
    if not others:
        raise InputError("The run has one region only: nothing can be replayed elsewhere.")
    theirs = forgery.entries[others[0]][forgery.find(others[0], "round")[0]]
    forgery.entries[region].append(theirs)
    index = len(forgery.entries[region]) - 1
    return Mark(frozenset({"record"}), party=region, index=index)


#: Each attack of this module by its id, with a few words on it.
ATTACKS: tuple[tuple[str, str, Callable[[Forgery], Mark]], ...] = (
    ("A1", "tail of the log cut off", truncate_tail),
    ("A2", "database rolled back to an older state", roll_back),
    ("A3", "two entries change places", reorder),
    ("A4", "refusal replaced by a consent", replace),
    ("A5", "invented consent inserted", insert),
    ("A6", "auditor shown another history than the witnesses", fork),
    ("A17", "another region's entry replayed", replay_elsewhere),
)
