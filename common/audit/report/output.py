"""Where a report may be written: not into the bundle that it is about."""

from __future__ import annotations

from pathlib import Path

from common.audit.report.page import GENERATOR
from common.audit.verify.files import BundleFolder
from common.errors import UsageError
from common.page_file import check_page_file

#: What it is called where it cannot be written.
KIND = "compliance report"


def check_output(out: Path, bundle: Path) -> None:
    """Checks, before any work is done, that a report may be written to a file.

    Raises:
        UsageError: It would overwrite what is no report, or lie within the bundle, which would
            then hold a file that its manifest does not name.
        InputError: There is no bundle, or no folder for the file.
    """
    root = BundleFolder(bundle).root.resolve()
    target = out.parent.resolve() / out.name
    if target == root or root in target.parents:
        raise UsageError(
            f"{out} lies within the bundle, which would then not verify.",
            remedy="Name a file outside the bundle folder.",
        )
    check_page_file(out, GENERATOR, KIND)
