"""A man in the middle hands out keys of its own, and takes off the masks that are made with them.

Flower's SecAgg+ takes whatever public keys the coordinator passes on: the victim masks with the
attacker, and encrypts the shares of its self-mask for it. Here a key comes in a statement that its
region's pinned identity has signed for one round; the victim names what is wrong, sends nothing.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import (
    decrypt,
    encrypt,
    generate_shared_key,
)
from flwr.common.secure_aggregation.secaggplus_utils import (
    share_keys_plaintext_concat,
    share_keys_plaintext_separate,
)
from flwr.supercore.primitives.asymmetric import (
    bytes_to_public_key,
    generate_key_pairs,
    public_key_to_bytes,
)

from common import canonical_json
from common.canonical_json import JsonValue
from common.double_masking.codec import envelopes_from_json, envelopes_to_json
from common.envelope import Envelope, Signature, pae
from common.keys import Signer, generate_key
from common.parameters import arrays_digest
from common.plan import RunPlan
from common.secure_aggregation import (
    MaskContext,
    MaskingKey,
    Roster,
    add_pairwise_masks,
    encode_roster,
    ring_values,
    shared_secret,
)
from common.secure_aggregation.roster import decode_roster
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

_SHARE_BYTES = 32
_PASSPHRASE = b"the attacker's own"


def on_flower(setting: Setting) -> Spoils:
    """Against SecAgg+."""
    trained = updates(setting.seed)
    with nodes(trained, seed=setting.seed) as lines:
        found = as_attacker(lambda: _swap_keys(Workflow(lines)))
    share = recovered_share(found["recovered"], trained[VICTIM])
    return Spoils(
        share == 1.0,
        f"the victim's update: {share:.0%} of {N_VALUES} values to Flower's own rounding, from its "
        "masked one and no other node's help",
        {"recovered_share": share, "values": N_VALUES},
    )


def _swap_keys(workflow: Workflow) -> Found:
    """The victim is told that everybody else has keys which are the attacker's."""
    first, second = workflow.set_up(VICTIM)
    peers = [number for number in range(1, N_NODES + 1) if number != VICTIM]
    masking = {number: generate_key_pairs() for number in peers}
    sharing = {number: generate_key_pairs() for number in peers}
    keys = {
        number: (public_key_to_bytes(masking[number][1]), public_key_to_bytes(sharing[number][1]))
        for number in peers
    }
    sent = workflow.share_keys(VICTIM, {VICTIM: (first, second), **keys})
    ways = {
        number: generate_shared_key(sharing[number][0], bytes_to_public_key(second))
        for number in peers
    }
    shares = [
        share_keys_plaintext_separate(decrypt(ways[number], sent.ciphertexts[number]))[2]
        for number in peers
    ]
    # What the peers would have shared is never looked at before the last stage.
    blank = bytes(_SHARE_BYTES)
    masked = workflow.masked_vector(
        VICTIM,
        {
            number: encrypt(way, share_keys_plaintext_concat(number, VICTIM, blank, blank))
            for number, way in ways.items()
        },
    )
    update = unmasked(
        masked,
        VICTIM,
        seed=combine_shares(shares),
        secrets={
            number: generate_shared_key(masking[number][0], bytes_to_public_key(first))
            for number in peers
        },
    )
    return {"recovered": [float(value) for value in update]}


def on_ours(setting: Setting) -> Spoils:
    """Against pairwise masks, and against double masking."""
    federation = setting.federation("secure-sum")
    with engines(federation) as lines:
        hand = _RosterSwap(federation.plan, setting.new_folder())
        found = coordinate(federation, lines, hand, last_round=1)
    doubled = setting.federation("secure-sum", "distributed")
    with engines(doubled) as lines:
        under_shares = coordinate(doubled, lines, _KeySwap(doubled.plan), last_round=1)
    reasons = found["reasons"]
    own, old, shared = (
        str(_each(reasons).get("own")),
        str(_each(reasons).get("old")),
        str(under_shares.get("reason")),
    )
    won = bool(found.get("recovered")) or shared == "accepted"
    refusals = (
        f"refused as {own} (signed by the attacker), {old} (the peer's signature, another key) "
        f"and, under double masking, {shared}"
    )
    control = "the true roster is answered" if found.get("control") else "not even the true roster"
    return Spoils(
        won,
        "the victim's update, bit for bit" if won else f"nothing: {refusals}; {control}",
        {
            "recovered": bool(found.get("recovered")),
            "reasons": [own, old, shared],
            "true_roster_answered": bool(found.get("control")),
        },
    )


def _each(value: JsonValue) -> Mapping[str, JsonValue]:
    return value if isinstance(value, dict) else {}


class _RosterSwap(Hand):
    """Asks the first region of the plan to mask with keys of the attacker's, then honestly."""

    def __init__(self, plan: RunPlan, folder: Path) -> None:
        super().__init__()
        self._plan = plan
        self._victim = plan.regions[0]
        self._signer = generate_key(folder / "trainer.pem", _PASSPHRASE)
        self._update = ""

    def meddle(self, call: Call) -> Reply:
        """See `Hand`."""
        if call.region == self._victim and call.is_("train", 1):
            reply = call.forward()
            entry = Envelope.decode(base64.b64decode(str(reply[0]["round_entry"])))
            self._update = str(entry.record()["update"])
            return reply
        if call.region == self._victim and call.is_("mask", 1):
            self._attack(call)
            reply = call.forward()
            self.found["control"] = reply[0]["status"] == "ok"
            return reply
        return call.forward()

    def _attack(self, call: Call) -> None:
        roster = decode_roster(call.header["roster"])
        reasons: Header = {}
        for name in ("old", "own"):
            keys = {each: MaskingKey.generate() for each in roster.regions if each != self._victim}
            forged = Roster.of([self._forged(roster, each, keys, name) for each in roster.regions])
            header, arrays = call.ask(roster=encode_roster(forged))
            reasons[name] = header.get("reason", "accepted")
            if header["status"] == "ok":
                self._recover(call, forged, keys, arrays)
        self.found["reasons"] = reasons

    def _forged(
        self, roster: Roster, region: str, keys: Mapping[str, MaskingKey], signed_by: str
    ) -> Envelope:
        """A region's statement, with a key of the attacker's in the place of its own."""
        envelope = roster.envelopes[roster.regions.index(region)]
        if region not in keys:
            return envelope
        statement = roster.statements[roster.regions.index(region)]
        record = replace(statement, public_key=keys[region].public).to_record()
        return _resigned(envelope, record, self._signer if signed_by == "own" else None)

    def _recover(
        self, call: Call, roster: Roster, keys: Mapping[str, MaskingKey], arrays: Mapping[str, Any]
    ) -> None:
        """Takes the masks off what the victim sent, and compares with the digest that it signed."""
        context = roster.statements[0].context
        place = roster.regions.index(self._victim)
        theirs = roster.statements[place].public_key
        vector = np.concatenate([arrays[name].reshape(-1) for name in sorted(arrays)])
        values = vector.view(np.uint32).copy()
        masks = MaskContext(int(str(call.header["attempt"])), roster.digest(context))
        for peer, key in keys.items():
            add_pairwise_masks(values, peer, {self._victim: shared_secret(key, theirs)}, masks)
        flat = np.concatenate([*ring_values(values, context.quantiser, n_summed=1)])
        recovered, start = {}, 0
        for name in sorted(arrays):
            size = arrays[name].size
            piece = flat[start : start + size].astype(np.float32)
            recovered[name], start = piece.reshape(arrays[name].shape), start + size
        self.found["recovered"] = arrays_digest(recovered) == self._update


class _KeySwap(Hand):
    """Asks the first region of the plan to share with keys of the attacker's."""

    def __init__(self, plan: RunPlan) -> None:
        super().__init__()
        self._victim = plan.regions[0]

    def meddle(self, call: Call) -> Reply:
        """See `Hand`."""
        if call.region != self._victim or not call.is_("execute", 1, "share"):
            return call.forward()
        content = _each(call.header["content"])
        forged = []
        for data in envelopes_from_json(content["keys"]):
            envelope = Envelope.decode(data)
            record = envelope.record()
            if record["region"] != self._victim:
                record["masking_key"] = MaskingKey.generate().public.hex()
                record["sharing_key"] = MaskingKey.generate().public.hex()
                data = _resigned(envelope, record, None).encode()
            forged.append(data)
        reply = call.ask(content={**content, "keys": envelopes_to_json(forged)})
        self.found["reason"] = reply[0].get("reason", "accepted")
        return reply


def _resigned(envelope: Envelope, record: dict[str, JsonValue], signer: Signer | None) -> Envelope:
    """Another record in an envelope, under the old signature or an attacker's in its name."""
    payload = canonical_json.encode(record, max_bytes=1 << 16)
    (signature,) = envelope.signatures
    if signer is not None:
        forged = signer.sign(pae(envelope.payload_type, payload))
        signature = Signature(signature.key_id, forged)
    return Envelope(envelope.payload_type, payload, (signature,))


DEMO = Demo(
    name="key-substitution",
    title="a coordinator in the middle swaps public keys",
    baseline="SecAgg+, secaggplus_mod",
    defence="signed masking keys",
    on_flower=on_flower,
    on_ours=on_ours,
)
