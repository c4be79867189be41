"""Which logs a bundle of a scope must hold whole, and which it must not."""

from __future__ import annotations

from collections.abc import Iterable

from common.audit.verify.files import BundleFolder
from common.audit.verify.records import ONE_REGION, REGIONAL
from common.audit.verify.replay import SERVER
from common.audit.verify.tiles import log_folder
from common.audit.verify.verdict import MANIFEST, Findings


def whole_logs(
    folder: BundleFolder, scope: str, parties: Iterable[str], findings: Findings
) -> frozenset[str]:
    """The parties whose logs are to be read whole.

    The scope is signed, so that nobody can pass off a bundle without consents for one that has all.
    """
    parties = frozenset(parties)
    regions = parties - {SERVER}
    if scope == REGIONAL:
        return parties
    whole: frozenset[str] = frozenset()
    if scope == ONE_REGION:
        whole = frozenset(p for p in regions if folder.list_folder(f"{log_folder(p)}/tile"))
        if len(whole) != 1:
            findings.fail(
                MANIFEST,
                "scope",
                f"A bundle of one region holds the whole log of one; this one, of {len(whole)}.",
                file="manifest.json",
            )
    _note_scope(whole, regions, findings)
    return whole | {SERVER}


def _note_scope(whole: frozenset[str], regions: frozenset[str], findings: Findings) -> None:
    if whole:
        findings.note(
            f"This bundle holds the consents of {', '.join(sorted(whole))} only. That the rounds "
            f"of {', '.join(sorted(regions - whole))} used only consenting customers is shown by "
            "bundles of those regions."
        )
    else:
        findings.note(
            "This bundle holds no consents: that each round used only consenting customers is "
            "shown by the regions' own bundles."
        )
