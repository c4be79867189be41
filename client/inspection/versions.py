"""The software that is installed: whether it is what this version of the region was made for."""

from __future__ import annotations

import platform
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from client.inspection.findings import Findings, Kind

_DISTRIBUTION = "fedpref"
_EXTRA = {"extra": "region"}


def check_versions(findings: Findings, *, distribution: str = _DISTRIBUTION) -> None:
    """Checks Python and every distribution that a region needs.

    Args:
        findings: Takes the problems.
        distribution: Whose requirements are checked.
    """
    try:
        stated = metadata.metadata(distribution)
        wanted = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        findings.note(
            f"{distribution} is not installed as a distribution: versions were not checked."
        )
        return
    allowed = stated["Requires-Python"]
    if not SpecifierSet(allowed).contains(platform.python_version(), prereleases=True):
        findings.add(
            Kind.VERSIONS,
            "Python",
            f"This is Python {platform.python_version()}; {distribution} needs {allowed}.",
            "Install the region with a Python that it was made for.",
        )
    for text in wanted:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate(_EXTRA):
            _check(requirement, findings)


def _check(requirement: Requirement, findings: Findings) -> None:
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        found = "it is not installed"
    else:
        if requirement.specifier.contains(version, prereleases=True):
            return
        found = f"{version} is installed"
    findings.add(
        Kind.VERSIONS,
        requirement.name,
        f"{requirement.name}{requirement.specifier} is needed, and {found}.",
        "Install the region anew from its hash-locked list of requirements.",
    )
