"""A curious coordinator reads what a customer bought from what a region sends.

It knows everything but the one customer's purchases: the model, the plan, all other customers'
records, and how many items the victim has bought. It subtracts what it knows. Of a plain gradient
that leaves the victim's own, whose rows are zero but where the victim bought; noise on those rows
alone does not help. Of a sealed release it leaves the victim under noise on every value.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from scipy.sparse import csr_matrix

from client.data.dataset import PreferenceDataset
from client.engine.home import RegionHome
from client.training.rows import popularity_values
from common.catalogue import Catalogue
from common.engine_channel import EngineChannel
from common.errors import FederationError
from simulations.attack_demos.basket_guesses import guess_baskets, paired_interval
from simulations.attack_demos.demo import Demo, Setting, Spoils
from simulations.attack_demos.hostile_coordinator import Call, Hand, coordinate
from simulations.attack_demos.processes import Found, Reply, as_attacker, engines, victims
from simulations.attack_demos.stock_flower import ARRAYS, ask_all, fedavg, node, reply_content
from simulations.attack_demos.users import attacker
from simulations.evaluation_data import region_splits
from simulations.faults.federation import Federation
from simulations.faults.recordings import Recordings
from simulations.provision import open_region

_RANK = 8
#: By how many more of its guesses right than by popularity an attacker has got something: two in a
#: hundred, at 95 % confidence. ε bounds what is learnt; it does not make it nothing.
WORTH = 0.02
# float32 sums differ from exact ones by less than this, relative to their largest value.
_FLOAT32_ROUNDING = 1e-5
_WEIGHTS = "item_factors"

FloatArray = npt.NDArray[np.float64]


def purchases_of(federation: Federation) -> dict[str, PreferenceDataset]:
    """Every region's customers, as their stores have them, while no engine is open."""
    catalogue = Catalogue.load(federation.folder.catalogue)
    datasets = {}
    for region in federation.plan.regions:
        home = RegionHome.read(federation.folder.region_home(region))
        with open_region(home, federation.set_up(region)) as opened:
            pseudonyms = opened.engine.subjects.pseudonyms()
            windows = [federation.scenario.windows]
            (split,) = region_splits(home, pseudonyms, windows, catalogue)
        datasets[region] = split.train
    return datasets


def on_flower(setting: Setting) -> Spoils:
    """Against a client that sends a plain gradient."""
    purchases = purchases_of(setting.federation("sum"))
    n_items = next(iter(purchases.values())).n_items
    weights = np.random.default_rng(setting.seed).normal(size=(n_items, _RANK))
    hosts = {
        region: node(_plain_client(dataset), number, seed=setting.seed)
        for number, (region, dataset) in enumerate(purchases.items(), start=1)
    }
    folder = setting.new_folder()
    loot = Recordings(folder)
    attacker().own(folder)
    with victims(hosts) as lines:
        as_attacker(lambda: _read_gradients(lines, weights, loot))
    precisions, recalls, noised = [], [], []
    generator = np.random.default_rng(setting.seed)
    for region, dataset in purchases.items():
        recorded = loot.read("reply", region, 1)
        if recorded is not None:
            gradient = recorded[1][_WEIGHTS].astype(np.float64)
            for bought, guess, under_noise in _touched(dataset, weights, gradient, generator):
                precisions.append(float(np.isin(guess, bought).mean()) if len(guess) else 0.0)
                recalls.append(float(np.isin(bought, guess).mean()))
                noised.append(float(np.array_equal(under_noise, bought)))
    precision, recall = float(np.mean(precisions)), float(np.mean(recalls))
    return Spoils(
        precision == recall == 1.0,
        f"{recall:.0%} of what each of {len(recalls)} customers bought, {precision:.0%} of its "
        f"guesses right; with noise on touched rows only still {np.mean(noised):.0%} of baskets",
        {
            "victims": len(recalls),
            "precision": precision,
            "recall": recall,
            "baskets_under_sparse_noise": float(np.mean(noised)),
        },
    )


def _plain_client(dataset: PreferenceDataset) -> ClientApp:
    """An ordinary Flower client: the gradient of its customers' loss −½‖Vᵀy‖², by torch."""
    app = ClientApp()
    rows = torch.from_numpy(_unit_rows(dataset).toarray().astype(np.float32))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        del context
        received = message.content.array_records[ARRAYS][_WEIGHTS].numpy()
        factors = torch.from_numpy(received.copy()).requires_grad_()
        loss = -0.5 * (rows @ factors).square().sum()
        (gradient,) = torch.autograd.grad(loss, factors)
        return Message(
            reply_content({_WEIGHTS: gradient.numpy()}, num_examples=len(rows)),
            reply_to=message,
        )

    return app


def _read_gradients(
    lines: Mapping[str, EngineChannel], weights: FloatArray, loot: Recordings
) -> Found:
    """Flower's round, whose coordinator keeps a copy of every reply before it averages them."""
    question = reply_content({_WEIGHTS: weights.astype(np.float32)})
    replies = dict(ask_all(lines, dict.fromkeys(lines, question)))
    for region, content in replies.items():
        gradient = content.array_records[ARRAYS][_WEIGHTS].numpy()
        loot.keep("reply", region, 1, {}, {_WEIGHTS: gradient})
    averaged = fedavg(list(replies.values()), server_round=1)
    return {"averaged": sorted(averaged)}


def _unit_rows(dataset: PreferenceDataset) -> csr_matrix:
    """Sparse float64[n_customers, n_items]: the customers' rows, each of norm 1."""
    return csr_matrix(
        (popularity_values(dataset), dataset.indices, dataset.indptr),
        shape=(dataset.n_customers, dataset.n_items),
    )


def _touched(
    dataset: PreferenceDataset,
    weights: FloatArray,
    gradient: FloatArray,
    generator: np.random.Generator,
) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """By victim: what it bought, the rows that are left, and those left under sparse noise."""
    rows = _unit_rows(dataset)
    factors = weights.astype(np.float32).astype(np.float64)
    projected = rows @ factors
    everyone = -(rows.T @ projected)
    rounding = _FLOAT32_ROUNDING * np.abs(gradient).max()
    found = []
    for victim in range(dataset.n_customers):
        row = rows[victim]
        if row.nnz == 0:
            continue
        own = -np.asarray(row.T @ projected[victim : victim + 1])
        left = gradient - (everyone - own)
        guess = np.flatnonzero(np.linalg.norm(left, axis=1) > rounding)
        noise = generator.normal(size=own.shape) * np.any(own != 0, axis=1, keepdims=True)
        under_noise = np.flatnonzero(np.any(own + noise != 0, axis=1))
        found.append((np.sort(row.indices).astype(np.int64), guess, under_noise))
    return found


def on_ours(setting: Setting) -> Spoils:
    """Against what real engines seal, every round of a run."""
    federation = setting.federation("sum")
    purchases = purchases_of(federation)
    loot = setting.new_folder()
    with engines(federation) as lines:
        found = coordinate(
            federation, lines, _Curious(loot), last_round=federation.plan.total_rounds
        )
    if "ended" in found:
        raise FederationError(f"The run that was to be read did not hold: {found['ended']}")
    guesses = guess_baskets(federation.plan, purchases, Recordings(loot))
    chance, best = guesses.popular, guesses.best
    low, high = paired_interval(best - chance, seed=setting.seed)
    won = low > WORTH
    return Spoils(
        won,
        f"{best.mean():.1%} of its guesses right, {chance.mean():.1%} for whoever guesses what is "
        f"popular and has seen nothing (difference {low:+.1%} to {high:+.1%}); exact baskets: "
        f"{guesses.exact} of {len(best)}",
        {
            "victims": len(best),
            "precision": float(best.mean()),
            "precision_by_popularity": float(chance.mean()),
            "difference_95": [low, high],
            "exact_baskets": guesses.exact,
            "noise_multipliers": [each.noise_multiplier for each in federation.plan.mechanisms],
            "epsilon": federation.plan.epsilon,
        },
    )


class _Curious(Hand):
    """Does nothing wrong, and keeps what it is sent."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._loot = Recordings(folder)
        attacker().own(folder)

    def meddle(self, call: Call) -> Reply:
        """See `Hand`."""
        reply = call.forward()
        if call.method == "train" and reply[0]["status"] == "ok":
            number = int(str(call.header["round"]))
            self._loot.keep("model", call.region, number, {}, call.arrays)
            self._loot.keep("reply", call.region, number, {}, reply[1])
        return reply


DEMO = Demo(
    name="basket-recovery",
    title="a curious coordinator reads baskets from updates",
    baseline="FedAvg, a plain gradient",
    defence="sealed noisy releases",
    on_flower=on_flower,
    on_ours=on_ours,
)
