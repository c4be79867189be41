"""A coordinator asks for both secrets of a victim: the seed of its own mask, and its masking key.

With shares of both from enough nodes it takes every mask off. Flower's SecAgg+ answers one question
that names the victim among the living and the dead. Here a region gives up of each other region one
share, of the kind that the survivors which enough regions signed for make it, and then has nothing.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key

from common.canonical_json import JsonValue
from common.double_masking.codec import (
    deliveries_from_json,
    envelopes_from_json,
    reveal_from_json,
)
from common.double_masking.messages import SHARE_ROSTER, Reveal
from common.double_masking.records import SHARES, Execution, open_statement
from common.double_masking.rosters import digest_of, read_key_roster
from common.double_masking.shamir import combine
from common.double_masking.streams import remove_self_mask
from common.engine_channel import EngineChannel
from common.envelope import Envelope
from common.errors import FedprefError
from common.parameters import arrays_digest
from common.plan import RunPlan
from common.secure_aggregation import (
    MaskContext,
    MaskingKey,
    RoundContext,
    add_pairwise_masks,
    shared_secret,
)
from common.timestamps import now_ms
from server.config import ServerHome
from simulations.attack_demos.demo import Demo, Setting, Spoils
from simulations.attack_demos.hostile_coordinator import Call, Hand, coordinate
from simulations.attack_demos.processes import Found, Header, Reply, as_attacker, engines
from simulations.attack_demos.secagg_plus import (
    N_NODES,
    N_VALUES,
    VICTIM,
    Workflow,
    nodes,
    recovered_share,
    unmasked,
    updates,
)
from simulations.faults.federation import Federation

#: What was asked, by what it is called in the table.
_QUESTIONS = ("both at once", "other survivors", "unmask again")


def on_flower(setting: Setting) -> Spoils:
    """Against SecAgg+."""
    trained = updates(setting.seed)
    with nodes(trained, seed=setting.seed) as lines:
        found = as_attacker(lambda: _ask_for_both(Workflow(lines)))
    share = recovered_share(found["recovered"], trained[VICTIM])
    return Spoils(
        share == 1.0,
        f"the victim's update: {share:.0%} of {N_VALUES} values to Flower's own rounding, by one "
        "question to each node",
        {"recovered_share": share, "values": N_VALUES},
    )


def _ask_for_both(workflow: Workflow) -> Found:
    """An execution by the book, till the last question."""
    everyone = list(range(1, N_NODES + 1))
    keys = {number: workflow.set_up(number) for number in everyone}
    sent = {number: workflow.share_keys(number, keys) for number in everyone}
    masked = {
        number: workflow.masked_vector(
            number,
            {each: sent[each].ciphertexts[number] for each in everyone if each != number},
        )
        for number in everyone
    }
    seeds, private_keys = [], []
    for number in everyone:
        given = workflow.unmask(number, active=everyone, dead=[VICTIM])
        of_victim = [share for owner, share in given if owner == VICTIM]
        seeds.append(of_victim[0])
        private_keys.append(of_victim[1])
    private_key = bytes_to_private_key(combine_shares(private_keys))
    update = unmasked(
        masked[VICTIM],
        VICTIM,
        seed=combine_shares(seeds),
        secrets={
            number: generate_shared_key(private_key, bytes_to_public_key(keys[number][0]))
            for number in everyone
            if number != VICTIM
        },
    )
    return {"recovered": [float(value) for value in update]}


def on_ours(setting: Setting) -> Spoils:
    """Against double masking."""
    federation = setting.federation("secure-sum", "distributed")
    with engines(federation) as lines:
        found = coordinate(federation, lines, _Twice(federation), last_round=1)
    reasons, opened = found["reasons"], bool(found["opened"])
    told = reasons if isinstance(reasons, dict) else {}
    refusals = ", ".join(f"{told[name]} ({name})" for name in _QUESTIONS if name in told)
    won = bool(found["recovered"])
    return Spoils(
        won,
        "the victim's update, bit for bit"
        if won
        else f"nothing: refused as {refusals}; the sum of all is opened, once",
        {"recovered": won, "reasons": told, "sum_opened": opened},
    )


class _Twice(Hand):
    """Has a round's sum opened as it should be, and asks for the victim's other secret as well."""

    def __init__(self, federation: Federation) -> None:
        super().__init__()
        self._plan: RunPlan = federation.plan
        self._victim = federation.plan.regions[0]
        self._registry = ServerHome(federation.folder.server).read_registry()
        self._seen: dict[tuple[str, str], tuple[Header, Header, Mapping[str, Any]]] = {}
        self._update = ""
        self._reasons: Header = {}
        self._again: dict[str, Reveal] = {}

    def meddle(self, call: Call) -> Reply:
        """See `Hand`."""
        if call.is_("execute", 1, "unmask") and call.region != self._victim:
            # The very question that SecAgg+ answers; it ends nothing here.
            both: JsonValue = {"active": [*self._plan.regions], "dead": [self._victim]}
            self._tell("both at once", call.ask(content=both)[0])
        reply = call.forward()
        if call.region == self._victim and call.is_("train", 1):
            entry = Envelope.decode(base64.b64decode(str(reply[0]["round_entry"])))
            self._update = str(entry.record()["update"])
        if call.method == "execute":
            with self.lock:
                step = str(call.header["step"])
                self._seen[call.region, step] = (call.header, *reply)
        return reply

    def after(self, lines: Mapping[str, EngineChannel]) -> None:
        """See `Hand`."""
        peers = [region for region in self._plan.regions if region != self._victim]
        agreements = []
        for region in peers:
            agreed = self._ask(lines[region], region, "agree", [*peers])
            self._tell("other survivors", agreed)
            agreements.append(str(agreed.get("agreement", "")))
        for region in peers:
            given = self._ask(lines[region], region, "unmask", [*agreements])
            self._tell("unmask again", given)
            if given["status"] == "ok":
                self._again[region] = reveal_from_json(given["reveal"])
        self.found["reasons"] = self._reasons
        self.found["opened"] = all((each, "unmask") in self._seen for each in self._plan.regions)
        self.found["recovered"] = self._recovers()

    def _tell(self, what: str, header: Header) -> None:
        with self.lock:
            self._reasons[what] = header.get("reason", "accepted")

    def _ask(self, line: EngineChannel, region: str, step: str, content: JsonValue) -> Header:
        request, _, _ = self._seen[region, step]
        return line.call("execute", {**request, "content": content}, {})[0]

    def _recovers(self) -> bool:
        """Whether both secrets take the victim's masks off, by the digest that it signed."""
        request, _, arrays = self._seen[self._victim, "mask"]
        execution = Execution(
            RoundContext.of(self._plan, 1, self._model_in()),
            int(str(request["attempt"])),
            frozenset(self._plan.regions),
            self._plan.quorum,
        )
        share = self._seen[self._victim, "share"][0]["content"]
        keys = envelopes_from_json(share["keys"])  # type: ignore[index,call-overload]
        at_ms = now_ms()
        roster = read_key_roster(keys, execution, self._registry, at_ms=at_ms)
        statements = [
            open_statement(each.statement, SHARES, execution, self._registry, at_ms=at_ms)
            for each in deliveries_from_json(request["content"]).values()
        ]
        first = {
            region: reveal_from_json(self._seen[region, "unmask"][1]["reveal"])
            for region in self._plan.regions
        }
        try:
            seed = combine(
                {roster.place(r): each.seed_shares[self._victim] for r, each in first.items()},
                threshold=roster.threshold,
            )
            key = MaskingKey(
                combine(
                    {
                        roster.place(region): each.key_shares[self._victim]
                        for region, each in self._again.items()
                    },
                    threshold=roster.threshold,
                )
            )
        except FedprefError:
            # Too few shares of one of them.
            return False
        flat = np.concatenate([arrays[name].reshape(-1) for name in sorted(arrays)])
        values = flat.view(np.uint32).copy()
        digest = digest_of(SHARE_ROSTER, statements)
        remove_self_mask(values, self._victim, seed, digest)
        for peer in self._again:
            secret = shared_secret(key, roster.key(peer, "masking_key"))
            masks = MaskContext(execution.attempt, digest)
            add_pairwise_masks(values, peer, {self._victim: secret}, masks)
        return self._digest(values.view(np.int32), arrays) == self._update

    def _model_in(self) -> str:
        """The digest of the model that the round started from, as the keys state it."""
        keys = self._seen[self._victim, "pin"][1]["keys"]
        return str(Envelope.decode(base64.b64decode(str(keys))).record()["model_in"])

    def _digest(self, flat: np.ndarray, like: Mapping[str, np.ndarray]) -> str:
        """The digest that a region signs of whole grid units."""
        pieces, start = {}, 0
        specs = {each.name: each for each in self._plan.released_arrays(self._mechanism)}
        for name in sorted(like):
            size = like[name].size
            piece = flat[start : start + size].astype(specs[name].dtype)
            pieces[name], start = piece.reshape(like[name].shape), start + size
        return arrays_digest(pieces)

    @property
    def _mechanism(self) -> str:
        return self._plan.mechanism_of(1).name


DEMO = Demo(
    name="unmask-twice",
    title="a coordinator asks for both secrets of a victim",
    baseline="SecAgg+, secaggplus_mod",
    defence="double masking",
    on_flower=on_flower,
    on_ours=on_ours,
)
