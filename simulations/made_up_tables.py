"""Further tables of a made-up region, beside its purchases: events, members, feedback, experiments.

Real data only have what they have; made-up ones get what a retailer would: visits to a web shop
before purchases (under accounts that a map of keys leads back to cards), answers to surveys, an
experiment, receipts with stores, payments and returns. What is drawn has known truths, `Truths`, so
that answers can be held against them. All of it is drawn from one seed, and nothing measured on it
says anything about real customers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from client.data.sources import all_batches, load_source_config
from client.data.tables.declaration import FILE_NAME
from common.catalogue import Catalogue

FEATURES = ("fast checkout", "fresh bakery", "clean store", "paper leaflet")
STORE_TYPES = ("city", "hypermarket", "neighbourhood")
PAYMENTS = ("card", "cash", "mobile")
EXPERIMENT = "lists-2024"

_LEVELS = ("basic", "silver", "gold")
_DAY_MS, _MINUTE_MS = 86_400_000, 60_000
_OWN_WORDS = 0.1
# Answers 1 to 5 with and without a feature, drawn about one pair for each class of Kano.
_PAIRS = {
    "fast checkout": (1, 5),
    "fresh bakery": (1, 3),
    "clean store": (3, 5),
    "paper leaflet": (3, 3),
}

Generator = np.random.Generator
StrArray = npt.NDArray[np.object_]


@dataclass(frozen=True)
class Truths:
    """What the tables are drawn by.

    Attributes:
        online_share: The share of trips that a visit to the web shop comes before.
        promoters: The share who answer 9 or 10.
        detractors: The share who answer 6 or less.
        click_rates: Of the control and of the treated, who click within their days.
        returned_share: The share of a receipt's rows that are given back.
        payments: The share of each way to pay, as `PAYMENTS`.
        answering: The share of customers who answer surveys.
        pair_share: The share of answers that are the pair a feature stands for; others are drawn.
        searching_share: The share of views that a search for the item's category comes before.
    """

    online_share: float = 0.6
    promoters: float = 0.5
    detractors: float = 0.2
    click_rates: tuple[float, float] = (0.2, 0.4)
    returned_share: float = 0.05
    payments: tuple[float, float, float] = (0.6, 0.3, 0.1)
    answering: float = 0.5
    pair_share: float = 0.8
    searching_share: float = 0.5
    features: tuple[str, ...] = field(default=FEATURES)


TRUTHS = Truths()


def write_tables(source: Path, catalogue: Catalogue, *, seed: int, truths: Truths = TRUTHS) -> Path:
    """Writes a region's further tables and their declaration beside its own.

    Args:
        source: The region's ``source.toml``.
        catalogue: The public catalogue.
        seed: The same seed and purchases give the same tables.
        truths: What they are drawn by.

    Returns:
        The declaration, ``tables.toml``.

    Raises:
        InputError: The store cannot be read.
    """
    generator = np.random.default_rng([seed, 0xE7E])
    bought = _bought(source)
    customers = np.array(sorted(bought["customer"].unique()), dtype=object)
    folder = source.parent
    accounts = dict(zip(customers, (f"web-{each}" for each in customers), strict=True))
    last_ms = int(bought["time_ms"].max())
    exposures = _exposures(generator, customers, bought, catalogue)
    receipts = _receipts(generator, bought, truths)
    visits = _visits(generator, bought, catalogue, truths)
    # Of a generator of their own: what else is drawn is the same without them.
    searches = _searches(np.random.default_rng([seed, 0x5EA]), visits, truths)
    tables = {
        "receipts": receipts,
        "events": pd.concat(
            [searches, visits, _clicks(generator, exposures, truths, last_ms)]
        ).sort_values(["time", "account"]),
        "members": _members(generator, customers, last_ms),
        "feedback": _feedback(generator, customers, bought, truths),
        "exposures": exposures.drop(columns="first_ms"),
        "keys": pd.DataFrame({"channel": "web", "key": accounts.values(), "customer": customers}),
        "promotions": _promotions(generator, catalogue, last_ms),
    }
    tables["events"]["account"] = [accounts.get(each, each) for each in tables["events"]["account"]]
    for name, frame in tables.items():
        frame.to_csv(folder / f"{name}.csv", index=False)
    declaration = folder / FILE_NAME
    declaration.write_text(_DECLARATION, encoding="utf-8")
    return declaration


def _bought(source: Path) -> pd.DataFrame:
    batches = list(all_batches(load_source_config(source)))
    frame = pd.concat([each.frame for each in batches], ignore_index=True)
    moments = frame["time"].to_numpy(dtype="datetime64[ms]").astype(np.int64)
    return pd.DataFrame(
        {
            "customer": frame["customer_ref"].astype("str"),
            "item": frame["item_ref"].astype("str"),
            "receipt": frame["basket_ref"].astype("str"),
            "time_ms": moments,
        }
    ).sort_values(["time_ms", "customer", "item"], ignore_index=True)


def _times(time_ms: npt.NDArray[np.int64]) -> pd.Series[Any]:
    moments = pd.to_datetime(pd.Series(time_ms), unit="ms", utc=True)
    return moments.dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _receipts(generator: Generator, bought: pd.DataFrame, truths: Truths) -> pd.DataFrame:
    trip = pd.factorize(bought["receipt"])[0]
    n_trips = int(trip.max(initial=-1)) + 1
    payment = generator.choice(PAYMENTS, n_trips, p=truths.payments)
    store = generator.integers(0, 6, n_trips)
    returned = generator.random(len(bought)) < truths.returned_share
    return pd.DataFrame(
        {
            "customer": bought["customer"],
            "time": _times(bought["time_ms"].to_numpy()),
            "item": bought["item"],
            "receipt": bought["receipt"],
            "amount": np.round(generator.lognormal(1.0, 0.6, len(bought)), 2),
            "payment": payment[trip],
            "store": [f"store-{each}" for each in store[trip]],
            "store_type": np.array(STORE_TYPES, dtype=object)[store[trip] % len(STORE_TYPES)],
            "returned": returned.astype(int),
        }
    )


def _visits(
    generator: Generator, bought: pd.DataFrame, catalogue: Catalogue, truths: Truths
) -> pd.DataFrame:
    """Before some trips: a view, a click and a cart, minutes apart; some look and do not buy."""
    trips = bought.drop_duplicates("receipt")
    online = trips[generator.random(len(trips)) < truths.online_share]
    frames = []
    for kind, before, share in (("view", 30, 1.0), ("click", 20, 0.9), ("cart", 10, 0.8)):
        done = online[generator.random(len(online)) < share]
        time_ms = done["time_ms"].to_numpy() - before * _MINUTE_MS
        frames.append(_events(done["customer"], kind, time_ms, done["item"], catalogue))
    idle = trips[generator.random(len(trips)) < 0.3]
    drawn = generator.integers(0, catalogue.n_items, len(idle))
    item = pd.Series(np.array(catalogue.items, dtype=object)[drawn], index=idle.index)
    later_ms = idle["time_ms"].to_numpy() + _DAY_MS
    frames.append(_events(idle["customer"], "view", later_ms, item, catalogue))
    return pd.concat(frames)


def _events(
    customer: pd.Series[Any],
    kind: str,
    time_ms: npt.NDArray[np.int64],
    item: pd.Series[Any],
    catalogue: Catalogue,
) -> pd.DataFrame:
    names = np.array(catalogue.category_names, dtype=object)
    number = [catalogue.index_of[each] for each in item]
    return pd.DataFrame(
        {
            "account": customer.to_numpy(),
            "time": _times(time_ms).to_numpy(),
            "kind": kind,
            "item": item.to_numpy(),
            "category": names[catalogue.category[number]],
            "value": "",
            "words": "",
        }
    )


def _searches(generator: Generator, visits: pd.DataFrame, truths: Truths) -> pd.DataFrame:
    """Before some views a search for the item's category, in one spelling or another.

    Some add a word that is theirs alone.
    """
    views = visits[visits["kind"] == "view"]
    views = views[generator.random(len(views)) < truths.searching_share]
    plain = views["category"].astype("str")
    spelling = generator.integers(0, 3, len(views))
    words = np.where(spelling == 0, plain.str.upper(), np.where(spelling == 1, plain, " " + plain))
    own = generator.random(len(views)) < _OWN_WORDS
    moments = pd.to_datetime(views["time"], utc=True) - pd.Timedelta(minutes=1)
    return views.assign(
        time=moments.dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        kind="search",
        item="",
        category="",
        words=np.where(own, plain + " of " + views["account"].astype("str"), words),
    )


def _exposures(
    generator: Generator, customers: StrArray, bought: pd.DataFrame, catalogue: Catalogue
) -> pd.DataFrame:
    begun_ms = int(bought["time_ms"].min()) + 30 * _DAY_MS
    first_ms = begun_ms + generator.integers(0, 30 * _DAY_MS, len(customers))
    treated = generator.random(len(customers)) < 0.5
    return pd.DataFrame(
        {
            "customer": customers,
            "time": _times(first_ms),
            "experiment": EXPERIMENT,
            "arm": np.where(treated, "new", "old"),
            "item": np.array(catalogue.items, dtype=object)[
                generator.integers(0, catalogue.n_items, len(customers))
            ],
            "first_ms": first_ms,
        }
    )


def _clicks(
    generator: Generator, exposures: pd.DataFrame, truths: Truths, last_ms: int
) -> pd.DataFrame:
    """Clicks on what the experiment shows; a visit's clicks are hardly ever on the same."""
    control, treated = truths.click_rates
    rate = np.where(exposures["arm"] == "new", treated, control)
    clicked = exposures[generator.random(len(exposures)) < rate]
    after_ms = generator.integers(_MINUTE_MS, _DAY_MS, len(clicked))
    time_ms = np.minimum(clicked["first_ms"].to_numpy() + after_ms, last_ms)
    return pd.DataFrame(
        {
            "account": clicked["customer"].to_numpy(),
            "time": _times(time_ms).to_numpy(),
            "kind": "click",
            "item": clicked["item"].to_numpy(),
            "category": "",
            "value": "",
            "words": "",
        }
    )


def _members(generator: Generator, customers: StrArray, last_ms: int) -> pd.DataFrame:
    joined_ms = last_ms - generator.integers(0, 1000 * _DAY_MS, len(customers))
    return pd.DataFrame(
        {
            "customer": customers,
            "joined": _times(joined_ms),
            "birth_year": generator.integers(1940, 2006, len(customers)),
            "level": generator.choice(_LEVELS, len(customers), p=[0.6, 0.3, 0.1]),
            "city": generator.choice(["north town", "south town"], len(customers)),
        }
    )


def _feedback(
    generator: Generator, customers: StrArray, bought: pd.DataFrame, truths: Truths
) -> pd.DataFrame:
    answering = customers[generator.random(len(customers)) < truths.answering]
    first_ms, last_ms = int(bought["time_ms"].min()), int(bought["time_ms"].max())
    n = len(answering)
    draw = generator.random(n)
    nps = np.where(
        draw < truths.promoters,
        generator.integers(9, 11, n),
        np.where(draw < 1 - truths.detractors, generator.integers(7, 9, n), 5),
    )
    scored = [
        ("nps", nps),
        ("csat", generator.choice([5, 4, 3, 2], n, p=[0.4, 0.3, 0.2, 0.1])),
        ("review", generator.choice([5, 4, 3], n, p=[0.5, 0.3, 0.2])),
    ]
    frames = [pd.DataFrame({"customer": answering, "kind": kind, "score": s}) for kind, s in scored]
    for feature in truths.features:
        meant = generator.random(n) < truths.pair_share
        pair = [np.where(meant, each, generator.integers(1, 6, n)) for each in _PAIRS[feature]]
        rows = {"customer": answering, "kind": "kano", "topic": feature}
        frames.append(pd.DataFrame({**rows, "functional": pair[0], "dysfunctional": pair[1]}))
    told = customers[generator.random(len(customers)) < 0.1]
    kind = generator.choice(["complaint", "service"], len(told))
    frames.append(pd.DataFrame({"customer": told, "kind": kind}))
    found = pd.concat(frames, ignore_index=True)
    found["time"] = _times(generator.integers(first_ms, last_ms, len(found)))
    return found


def _promotions(generator: Generator, catalogue: Catalogue, last_ms: int) -> pd.DataFrame:
    n = min(20, catalogue.n_items)
    item = generator.choice(np.array(catalogue.items, dtype=object), n, replace=False)
    begins_ms = last_ms - generator.integers(7 * _DAY_MS, 300 * _DAY_MS, n)
    return pd.DataFrame(
        {
            "promotion": [f"promotion-{number:02d}" for number in range(n)],
            "begins": _times(begins_ms),
            "ends": _times(begins_ms + 7 * _DAY_MS),
            "kind": generator.choice(["price", "coupon", "display", "mailer"], n),
            "item": item,
            "discount": np.round(generator.uniform(0.05, 0.5, n), 2),
        }
    )


_DECLARATION = """\
# Where this region's further tables are. Columns that are not named here are never read.

[purchases]
kind = "files"
path = "receipts.csv"

[purchases.columns]
customer = "customer"
time = "time"
item = "item"
receipt = "receipt"
amount = "amount"
payment = "payment"
store = "store"
store_type = "store_type"
returned = "returned"

[purchases.codes.payment]
card = "card"
cash = "cash"
mobile = "mobile"

[purchases.codes.store_type]
city = "city"
hypermarket = "hypermarket"
neighbourhood = "neighbourhood"

[events]
kind = "files"
path = "events.csv"
channel = "web"                     # customers are the web shop's accounts: see keys

[events.columns]
customer = "account"
time = "time"
kind = "kind"
item = "item"
category = "category"
value = "value"
query = "words"

[members]
kind = "files"
path = "members.csv"

[members.columns]
customer = "customer"
joined = "joined"
birth_year = "birth_year"
level = "level"
city = "city"

[feedback]
kind = "files"
path = "feedback.csv"

[feedback.columns]
customer = "customer"
time = "time"
kind = "kind"
score = "score"
functional = "functional"
dysfunctional = "dysfunctional"
topic = "topic"

[feedback.codes.topic]              # the features that surveys ask about
"fast checkout" = "fast checkout"
"fresh bakery" = "fresh bakery"
"clean store" = "clean store"
"paper leaflet" = "paper leaflet"

[exposures]
kind = "files"
path = "exposures.csv"

[exposures.columns]
customer = "customer"
time = "time"
experiment = "experiment"
arm = "arm"
item = "item"

[exposures.codes.arm]
old = "control"
new = "treated"

[promotions]
kind = "files"
path = "promotions.csv"

[promotions.columns]
promotion = "promotion"
begins = "begins"
ends = "ends"
kind = "kind"
item = "item"
discount = "discount"

[keys]
kind = "files"
path = "keys.csv"

[keys.columns]
channel = "channel"
key = "key"
customer = "customer"
"""
