"""What the reader should know of a bundle's witnesses: who saw what, and who stands outside."""

from __future__ import annotations

from collections import defaultdict

from common.audit.verify.replay import Evidence
from common.audit.verify.verdict import WitnessFacts


def describe_witnesses(evidence: Evidence) -> tuple[WitnessFacts, ...]:
    """Who cosigned the checkpoints that hold; notes what that leaves open."""
    seen: dict[str, set[str]] = defaultdict(set)
    cosignatures: dict[str, int] = defaultdict(int)
    for party, replay in evidence.replays.items():
        for _, witness, _ in replay.cosigned:
            seen[witness].add(party)
            cosignatures[witness] += 1
    facts = tuple(
        WitnessFacts(
            party=witness,
            outside=witness not in evidence.ring.parties,
            logs=tuple(sorted(seen[witness])),
            cosignatures=cosignatures[witness],
        )
        for witness in sorted({key.party for key in evidence.ring.keys_of("witness")})
    )
    _note_quorum(evidence, facts)
    _note_tails(evidence)
    return facts


def _note_quorum(evidence: Evidence, facts: tuple[WitnessFacts, ...]) -> None:
    quorum, note = evidence.ring.witness_quorum, evidence.findings.note
    if not quorum:
        note(
            "The registry asks for no other party's cosignature: an operator with all keys could "
            "show different readers different histories."
        )
        return
    took_part = [witness for witness in facts if witness.logs]
    names = ", ".join(witness.party for witness in took_part) or "nobody"
    note(
        f"A checkpoint counts once {quorum} other parties have cosigned it; here {names} cosigned."
    )
    outside = [witness for witness in took_part if witness.outside]
    for witness in outside:
        whole = evidence.replays.keys() <= set(witness.logs)
        logs = "every log" if whole else f"only the logs of {', '.join(witness.logs)}"
        note(f"{witness.party} stands outside, without a log of its own; it cosigned {logs}.")
    if not outside:
        note(
            "None of them stands outside the federation: all its parties together could show "
            "different readers different histories."
        )


def _note_tails(evidence: Evidence) -> None:
    """The entries that enough others have not seen yet."""
    quorum = evidence.ring.witness_quorum
    for party, replay in sorted(evidence.replays.items()):
        newest = replay.cosigned.newest(quorum) if quorum else replay.size
        if newest < replay.size:
            evidence.findings.note(
                f"Of the log of {party}, entries {newest} to {replay.size - 1} are behind the "
                f"newest checkpoint that {quorum} other parties cosigned: {party} could still show "
                "another end."
            )
