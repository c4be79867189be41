"""A person's rights on a finished run: exported, erased, and everything still verifies."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.cli import app
from client.consent_service.region_records import open_records
from client.engine.home import RegionHome
from common import canonical_json
from common.audit.customer_key import CustomerKey
from common.audit.participation import Participation
from common.audit.verified_bundle import open_verified
from common.plan import RunPlan
from server.config import ServerHome
from simulations.outcome import bundle_run
from simulations.run_folder import RunFolder
from simulations.scenarios import find_scenario


@pytest.fixture(scope="module")
def run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copied = tmp_path_factory.mktemp("rights") / "run"
    shutil.copytree(finished_run, copied, symlinks=True)
    return copied


def test_who_is_erased_is_unlinkable_and_the_run_still_verifies(run: Path, tmp_path: Path) -> None:
    folder = RunFolder(run)
    home = RegionHome.read(folder.region_home("region-1"))
    with open_records(home) as records:
        customer = next(
            ref
            for ref in records.subjects.pseudonyms()
            if records.registrar().consents(ref) and len(records.registrar().history(ref)) == 1
        )
    out = tmp_path / "subject.zip"
    runner = CliRunner()
    exported = runner.invoke(app, ["export-subject", str(home.root), customer, "--out", str(out)])
    assert exported.exit_code == 0, exported.exception
    with zipfile.ZipFile(out) as archive:
        key = CustomerKey.parse(archive.read("customer-key.json"))
        parts = json.loads(archive.read("participation.json"))
    # What the region says of the person's rounds is what the verified bundle proves.
    proved = Participation(open_verified(run), key.region, key.sid)
    assert [(part["round"], part["included"]) for part in parts] == [
        (each.entry.number("round"), each.member) for each in proved.rounds()
    ]
    assert any(part["included"] for part in parts)

    erased = runner.invoke(app, ["erase", str(home.root), customer, "--yes"])
    assert erased.exit_code == 0, erased.exception
    plan = RunPlan.from_record(
        canonical_json.decode(ServerHome(folder.server).plan.read_bytes(), max_bytes=1 << 20)
    )
    verdict = bundle_run(folder, find_scenario("synthetic-3"), plan)
    assert verdict.verified, verdict.failures
    # With the key that the person took home, and with nothing else, they are still found.
    last = Participation(open_verified(run), key.region, key.sid)
    assert last.records[-1].erases
    # The store of purchases lies behind a link: it is not this system's to erase.
    everything = b"".join(
        path.read_bytes()
        for folder_of in (home.root, run / "bundle")
        for path in folder_of.rglob("*")
        if path.is_file() and path.resolve().is_relative_to(folder_of.resolve())
    )
    for trace in (key.k_subject, key.k_subject.hex().encode(), customer.encode()):
        assert trace not in everything
