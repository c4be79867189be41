"""Writes ``sbom/ROLE.cdx.json``: a role's locked packages as a CycloneDX bill of materials.

Run it with ``make sbom``. Names, versions and digests come from ``requirements/ROLE.lock``,
licences and who needs whom from the packages themselves, as they are installed here in the same
versions. Neither a time nor a random number is in it: the same lock gives the same bytes.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from importlib import metadata
from itertools import chain
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
ROLES = ("region", "server")

_DIGEST = "fedpref:file-sha256"
_CLASSIFIER = "License :: OSI Approved :: "
# Longer than this it is a licence's whole text, not its name.
_LONGEST_NAME = 64
_LICENSES = LicenseFactory()


def locked(role: str) -> dict[str, tuple[str, list[str]]]:
    """Version and digests of each package of a role, by normalised name."""
    text = (ROOT / "requirements" / f"{role}.lock").read_text(encoding="utf-8")
    found = {}
    for entry in text.replace("\\\n", " ").splitlines():
        name, pinned, rest = entry.partition("==")
        if pinned and not entry.startswith("#"):
            version, *_ = rest.split()
            digests = re.findall(r"--hash=sha256:([0-9a-f]{64})", rest)
            found[str(canonicalize_name(name))] = (version, digests)
    return found


def bill_of(role: str) -> str:
    """A role's bill of materials as JSON text."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = locked(role)
    product = Component(
        name=project["name"],
        version=project["version"],
        type=ComponentType.APPLICATION,
        bom_ref=f"{project['name']}-{role}",
        description=project["description"],
        licenses=[_LICENSES.make_from_string(project["license"])],
    )
    needed = {name: [*map(Requirement, metadata.requires(name) or [])] for name in pins}
    components = {
        name: _component(name, version, digests) for name, (version, digests) in pins.items()
    }
    bom = Bom(components=components.values())
    bom.metadata.component = product
    texts = [*project["dependencies"], *project["optional-dependencies"][role]]
    asked = [*map(Requirement, texts)]
    bom.register_dependency(product, _of(components, asked, extras={""}))
    for name, component in components.items():
        extras = {
            extra
            for requirement in (*asked, *chain.from_iterable(needed.values()))
            if canonicalize_name(requirement.name) == name
            for extra in requirement.extras
        }
        needs = _of(components, needed[name], extras={"", *extras})
        bom.register_dependency(component, needs)
    record = json.loads(JsonV1Dot6(bom).output_as_string())
    del record["serialNumber"], record["metadata"]["timestamp"]
    return json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _component(name: str, version: str, digests: list[str]) -> Component:
    return Component(
        name=name,
        version=version,
        bom_ref=f"{name}=={version}",
        purl=PackageURL("pypi", None, name, version),
        licenses=_licenses(name),
        properties=[Property(name=_DIGEST, value=digest) for digest in sorted(digests)],
    )


def _licenses(name: str) -> list[License]:
    """What a package says its licence is: an SPDX expression, a name, or its classifiers."""
    about = metadata.metadata(name)
    if expression := about.get("License-Expression"):
        return [_LICENSES.make_with_expression(expression)]
    stated = about.get("License") or ""
    if 0 < len(stated) <= _LONGEST_NAME and "\n" not in stated:
        return [_LICENSES.make_from_string(stated)]
    classified = [
        each.removeprefix(_CLASSIFIER)
        for each in about.get_all("Classifier") or []
        if each.startswith(_CLASSIFIER)
    ]
    return [DisjunctiveLicense(name=each) for each in classified]


def _of(
    components: dict[str, Component], requirements: list[Requirement], *, extras: set[str]
) -> list[Component]:
    """The components that some requirements name."""
    found = []
    for requirement in requirements:
        applies = requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in extras
        )
        name = str(canonicalize_name(requirement.name))
        if applies and name in components:
            found.append(components[name])
    return found


def main() -> None:
    """Writes both."""
    for role in ROLES:
        path = ROOT / "sbom" / f"{role}.cdx.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(bill_of(role), encoding="utf-8")
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
