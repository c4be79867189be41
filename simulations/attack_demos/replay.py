"""Old messages sent again: an old reply as a new one, and the same question over and over.

Flower's FedAvg does not know of which round a reply is. A node with Flower's `LocalDpMod` draws
fresh noise whenever it is asked, so a coordinator that asks often enough averages the noise away.
Here a reply is signed for its run, round and attempt, masked or not, a region that is asked again
sends the same sealed bytes, and one that has gone on to the next round masks nothing of the last.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod

from common.engine_channel import EngineChannel
from common.parameters import arrays_digest
from simulations.attack_demos.demo import Demo, Setting, Spoils
from simulations.attack_demos.hostile_coordinator import Call, Hand, coordinate, refused, used
from simulations.attack_demos.processes import Found, Header, Reply, as_attacker, engines, victims
from simulations.attack_demos.stock_flower import ARRAYS, ask, fedavg, node, reply_content
from simulations.faults.federation import Federation

#: How often a Flower node is asked for one round; noise of N answers is √N times smaller.
ASKED_ON_FLOWER = 400
#: How often a region of ours is. Its answers are one and the same.
ASKED_ON_OURS = 8
#: In which round an old message is sent again.
ROUND = 3
_N_ITEMS = 400
_BASKET = 12
_NODE = "node"
_EPSILON, _DELTA = 8.0, 1e-6


def on_flower(setting: Setting) -> Spoils:
    """Against FedAvg and LocalDpMod."""
    generator = np.random.default_rng(setting.seed)
    basket = np.sort(generator.choice(_N_ITEMS, _BASKET, replace=False))
    old, new, other = generator.normal(size=(3, 8))
    mean = fedavg([reply_content({"w": each}) for each in (old, other)], server_round=ROUND)["w"]
    accepted = bool(np.allclose(mean, (old + other) / 2)) and not np.allclose(old, new)
    with victims({_NODE: node(_noised_client(basket), 1, seed=setting.seed)}) as lines:
        found = as_attacker(lambda: _ask_often(lines[_NODE]))
    once, often = (float(np.isin(found[name], basket).mean()) for name in ("once", "often"))
    return Spoils(
        accepted and often == 1.0,
        f"an old reply counts as a new one; asked {ASKED_ON_FLOWER} times, LocalDpMod (ε = "
        f"{_EPSILON:g}) gives away {often:.0%} of a basket, {once:.0%} if asked once",
        {
            "old_reply_accepted": accepted,
            "asked": ASKED_ON_FLOWER,
            "basket_precision_once": once,
            "basket_precision_averaged": often,
        },
    )


def _noised_client(basket: npt.NDArray[np.int64]) -> ClientApp:
    """A client whose update is one customer's basket, with Flower's own local noise."""
    app = ClientApp(mods=[LocalDpMod(1.0, 1.0, _EPSILON, _DELTA)])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        del context
        model = message.content.array_records[ARRAYS]["w"].numpy().copy()
        model[basket] += 1 / np.sqrt(len(basket))
        return Message(reply_content({"w": model}), reply_to=message)

    return app


def _ask_often(line: EngineChannel) -> Found:
    question = reply_content({"w": np.zeros(_N_ITEMS)})
    answers = [
        ask(line, question).array_records[ARRAYS]["w"].numpy() for _ in range(ASKED_ON_FLOWER)
    ]
    return {"once": _largest(answers[0]), "often": _largest(np.mean(answers, axis=0))}


def _largest(values: npt.NDArray[np.floating]) -> list[int]:
    return [int(item) for item in np.argsort(-values)[:_BASKET]]


def on_ours(setting: Setting) -> Spoils:
    """Against signed, sealed replies, open and masked."""
    opened = setting.federation("sum")
    with engines(opened) as lines:
        asked = coordinate(opened, lines, _OldReply(opened.plan.regions), last_round=ROUND)
    masked = setting.federation("secure-sum")
    with engines(masked) as lines:
        asked_masked = coordinate(masked, lines, _OldMask(masked.plan.regions), last_round=ROUND)
    reply, mask = _reason(opened, asked), _reason(masked, asked_masked)
    question = str(asked_masked.get("old_question", "never asked"))
    answers = int(str(asked.get("distinct_answers", 0)))
    won = reply == "accepted" or mask == "accepted" or question == "accepted" or answers != 1
    return Spoils(
        won,
        f"an old reply is refused as {reply}, an old masked one as {mask}, an old question to mask "
        f"as {question}; asked {ASKED_ON_OURS} times, a region gives "
        + ("one and the same answer" if answers == 1 else f"{answers} different answers"),
        {
            "reasons": {"reply": reply, "masked_reply": mask, "mask_question": question},
            "asked": ASKED_ON_OURS,
            "distinct_answers": answers,
        },
    )


def _reason(federation: Federation, found: Found) -> str:
    """Why the first region's update is not in the round, or that it is."""
    region, folder = federation.plan.regions[0], federation.folder
    if region in used(folder, ROUND):
        return "accepted"
    return refused(folder, ROUND).get(region, str(found.get("ended", "unknown")))


class _OldReply(Hand):
    """Sends the last round's reply as this round's, and asks another region over and over."""

    def __init__(self, regions: tuple[str, ...]) -> None:
        super().__init__()
        self._replayed, self._asked = regions[:2]
        self._old: Reply | None = None

    def meddle(self, call: Call) -> Reply:
        """See `Hand`."""
        reply = call.forward()
        if call.region == self._replayed and call.is_("train", ROUND - 1):
            self._old = reply
        if call.region == self._replayed and call.is_("train", ROUND) and self._old:
            return self._old
        if call.region == self._asked and call.is_("train", ROUND):
            again = [call.forward() for _ in range(ASKED_ON_OURS - 1)]
            answers = {arrays_digest(arrays) for _, arrays in (reply, *again)}
            self.found["distinct_answers"] = len(answers)
        return reply


class _OldMask(Hand):
    """The same with masked replies, and with the last round's question to mask."""

    def __init__(self, regions: tuple[str, ...]) -> None:
        super().__init__()
        self._replayed, self._asked = regions[:2]
        self._old: dict[str, tuple[Header, Reply]] = {}

    def meddle(self, call: Call) -> Reply:
        """See `Hand`."""
        reply = call.forward()
        if call.is_("mask", ROUND - 1):
            with self.lock:
                self._old[call.region] = (call.header, reply)
        if call.is_("mask", ROUND):
            if call.region == self._asked:
                again = call.ask(**self._old[call.region][0])
                self.found["old_question"] = again[0].get("reason", "accepted")
            if call.region == self._replayed:
                return self._old[call.region][1]
        return reply


DEMO = Demo(
    name="replay",
    title="old replies and old questions are sent again",
    baseline="FedAvg, LocalDpMod",
    defence="signed, sealed replies",
    on_flower=on_flower,
    on_ours=on_ours,
)
