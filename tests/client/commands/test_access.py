"""`fedpref-region access`: a grant's life between users of one machine, and what verifies of it."""

from __future__ import annotations

import json
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from click.testing import Result
from typer.testing import CliRunner

# What runs as users who cannot read this checkout is imported before they are.
import client.commands.access
import client.commands.engine_process
import client.governance.access_socket
import client.governance.desk_opening
import client.governance.table_files
import common.key_request
import common.key_rotation  # noqa: F401 # as the comment above says
from client.cli import app
from client.commands.key_backup import backup_faults
from client.consent_service.registrar import Choice
from client.data.standards import Grade, load_standards
from client.engine.home import RegionHome
from client.engine.policy import RegionPolicy, read_policy
from client.engine.policy_desk import sign_policy
from client.governance import desk_opening
from client.governance.access_desk import AccessDesk
from client.governance.column_store import ColumnStore
from client.governance.grades import grades_of
from common.audit.log import AuditLog
from common.audit.verify import verify_bundle
from common.envelope import Envelope
from common.errors import FedprefError, InputError, PolicyError
from common.keys import key_id
from common.timestamps import format_time, now_ms
from tests.support.access_bundle import R1, AccessFederation, granting
from tests.support.access_home import GRADES, ROWS, TABLE, make_access_home
from tests.support.bundle_builder import DAY_MS, EPOCH_MS, JsonRecord
from tests.support.other_user import as_user, become, open_folder
from tests.support.region_home import ALL, FEDERATION, REGION, make_region_home, open_home

CUSTODIAN, ANALYST, OFFICER, OTHER = 61001, 61002, 61003, 61004
GROUP = 61010
_WAIT_S = 20.0


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def done(*arguments: object) -> str:
    result = run(*arguments)
    if result.exception is not None:
        raise result.exception
    return result.stdout


def refused(*arguments: object) -> list[Any]:
    """The exit code and the words of what a command refuses."""
    error = run(*arguments).exception
    assert isinstance(error, FedprefError), error
    return [error.exit_code, str(error)]


@dataclass(frozen=True)
class PublicKey:
    """A key of which others know the public half."""

    public_key: bytes

    @property
    def key_id(self) -> str:
        return key_id(self.public_key)


@dataclass(frozen=True)
class Machine:
    """A region's machine: its home, people's folders, and the desk's socket."""

    folder: Path
    keys: dict[str, PublicKey]

    @property
    def home(self) -> RegionHome:
        return RegionHome(self.folder / "home", REGION, FEDERATION)

    @property
    def socket(self) -> Path:
        return self.folder / "desk" / "access.sock"

    @property
    def desk(self) -> tuple[object, ...]:
        return ("--desk", self.socket, "--desk-user", CUSTODIAN)

    def person(self, name: str) -> Path:
        return self.folder / name

    def acts(self, user: int, act: Callable[[], Any]) -> Any:
        return as_user(user, user, act, groups=[GROUP])


def make_person(folder: Path, role: str) -> str:
    """Makes a person's folder and key as they would; gives the public key, in hex."""
    done("keys", "new", folder, role, "--party", REGION, "--federation", FEDERATION)
    return RegionHome.read(folder).signer(role).public_key.hex()


@contextmanager
def machine() -> Iterator[Machine]:
    with open_folder() as folder:
        keys = {}
        people = (("analyst", ANALYST, "requester"), ("officer", OFFICER, "approver"))
        for name, user, role in people:
            (folder / name).mkdir()
            os.chown(folder / name, user, user)
            made = as_user(user, user, partial(make_person, folder / name, role))
            keys[role] = PublicKey(bytes.fromhex(made))
        found = Machine(folder, keys)
        make_home(found)
        (folder / "desk").mkdir(mode=0o711)
        for path in (folder / "desk", found.home.root, *found.home.root.rglob("*")):
            os.chown(path, CUSTODIAN, CUSTODIAN)
        yield found


def make_home(found: Machine) -> None:
    home = make_region_home(
        found.home.root,
        others=[(REGION, role, key) for role, key in found.keys.items()],  # type: ignore[misc]
    )
    access = {
        "grant_s_max": 3600,
        "people": {
            "analyst-1": [found.keys["requester"].key_id],
            "officer-1": [found.keys["approver"].key_id],
        },
    }
    fields = {**read_policy(home.policy).to_record(), "access": access}
    with AuditLog.open(home.log, origin=home.origin, signer=home.signer("log")) as log:
        sign_policy(home, log, RegionPolicy.model_validate(fields))
    ColumnStore(home).keep(TABLE, ROWS, GRADES, subject="customer")


@contextmanager
def serving(found: Machine, *, ahead_ms: int = 0) -> Iterator[None]:
    """The desk, in a process of its own that runs as the region's user."""
    child = os.fork()
    if child == 0:
        try:
            become(CUSTODIAN, CUSTODIAN, [GROUP])
            clock = partial(AccessDesk, clock_ms=lambda: now_ms() + ahead_ms)
            desk_opening.AccessDesk = clock  # type: ignore[assignment, misc] # a child's own copy
            users = [part for user in (ANALYST, OFFICER) for part in ("--user", user)]
            done("access", "serve", found.home.root, "--socket", found.socket, *users,
                 "--group", GROUP)  # fmt: skip
        finally:
            os._exit(0)
    try:
        until = time.monotonic() + _WAIT_S
        while not found.socket.exists():
            assert time.monotonic() < until, "the desk does not come up"
            time.sleep(0.01)
        yield
    finally:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)


def denied(path: Path) -> bool:
    try:
        path.read_bytes()
    except PermissionError:
        return True
    return False


def test_a_grants_life_between_users_of_one_machine_and_its_verdict() -> None:
    with machine() as found:
        desk, analyst, officer = found.desk, found.person("analyst"), found.person("officer")
        with serving(found):
            # What is encrypted and what opens it is the region's user's alone.
            for path in (found.home.columns_key, found.home.columns / "columns.json"):
                assert found.acts(ANALYST, partial(denied, path))
            request = partial(done, "access", "request", analyst, TABLE, "email", "--because",
                              "recall of item 4711", "--minutes", 30, *desk)  # fmt: skip
            request_id = found.acts(ANALYST, request).strip()
            use = ("access", "use", analyst, request_id, *desk)
            assert found.acts(ANALYST, partial(refused, *use))[0] == PolicyError.exit_code
            # Their key is no approver's, and the officer's folder is closed to them.
            approve = ("access", "approve", officer, request_id, "--yes", *desk)
            assert found.acts(ANALYST, partial(refused, *approve))[0] == InputError.exit_code
            shown = found.acts(OFFICER, partial(done, *approve))
            assert "analyst-1 asks for email of members, for 30 minutes" in shown
            assert "because: recall of item 4711" in shown
            printed = found.acts(ANALYST, partial(done, *use))
            assert printed.splitlines() == ['"email"', '"a@shop.example"', '"b@shop.example"', ""]
            # Who approved has no key to use it with.
            foreign = ("access", "use", officer, request_id, *desk)
            assert found.acts(OFFICER, partial(refused, *foreign))[0] == InputError.exit_code
            read = ("access", "read", TABLE, "email", *desk)
            code, said = found.acts(OFFICER, partial(refused, *read))
            assert (code, "no grant was shown" in said) == (PolicyError.exit_code, True)
            free = found.acts(OFFICER, partial(done, "access", "read", TABLE, "tier", *desk))
            assert free.splitlines()[1:] == ['"gold"', '"silver"', '"gold"']
            assert found.acts(OTHER, partial(refused, *read))[0] == InputError.exit_code
            second = found.acts(ANALYST, request).strip()
            revoke = ("access", "revoke", officer, second, "--because", "done", *desk)
            found.acts(OFFICER, partial(done, *revoke))
        with serving(found, ahead_ms=1_800_000):
            listed = json.loads(
                found.acts(ANALYST, partial(done, "access", "list", "--json", *desk))
            )
        assert [(each["state"], each["uses"]) for each in listed] == [
            ("expired", 1),
            ("revoked", 0),
        ]
        entries = access_entries(found.home)
        verify(found, entries)


def access_entries(home: RegionHome) -> list[bytes]:
    with AuditLog.open_read_only(home.log) as log:
        entries = [data for _, data in log.entries()]
    kinds = [Envelope.decode(data).kind for data in entries]
    begin = kinds.index("access-request")
    assert [kind for kind in kinds if kind.startswith("access-")] == [
        *("access-request", "access-approval", "access-use"),
        *("access-request", "access-revocation", "access-expiry"),
    ]
    reasons = {
        Envelope.decode(data).record()["reason"]
        for data, kind in zip(entries, kinds, strict=True)
        if kind == "incident"
    }
    assert reasons == {"access-refused", "peer-refused"}
    return entries[begin:]


def verify(found: Machine, entries: list[bytes]) -> None:
    """What people and desk have logged, in a federation's bundle, by the verifier's own replay."""

    class Lived(AccessFederation):
        def __post_init__(self) -> None:
            super().__post_init__()
            keys: dict[tuple[str, str], Any] = dict(self.keys)
            keys |= {(R1, role): key for role, key in found.keys.items()}
            keys[R1, "trainer"] = found.home.signer("trainer")
            self.keys = keys

        def key_entries(self) -> list[JsonRecord]:
            until = format_time(EPOCH_MS + 3650 * DAY_MS)
            return [entry | {"not_after": until} for entry in super().key_entries()]

    os.chown(found.home.keys / "trainer.pem", 0, 0)
    os.chown(found.home.keys / "passphrase", 0, 0)
    lived, made = Lived(), granting()
    lived.alter, made.access_rules = made.alter, lived.access_rules  # type: ignore[method-assign]
    lived.run()
    lived.logs[R1] += entries
    lived.clock_ms = now_ms() + 3_600_000
    verdict = verify_bundle(lived.write(found.folder / "bundle"))
    assert verdict.failures == ()
    assert verdict.steps[3].counts["access entries"] == 6


@pytest.fixture
def home(tmp_path: Path) -> RegionHome:
    return make_access_home(tmp_path / "home")


def test_tables_are_kept_by_the_grades_of_the_standards(home: RegionHome, tmp_path: Path) -> None:
    file = tmp_path / "members.csv"
    file.write_text("customer,tier,postcode,loves\n7,gold,01067,tea\n8,,99084,\n")
    told = done("access", "keep", home.root, "members", file)
    assert "2 rows" in told
    grades = json.loads(done("access", "tables", home.root, "--json"))["members"]["columns"]
    assert grades == grades_of(load_standards(), "members", grades)
    # The standards know nothing of what a customer loves.
    assert (grades["loves"], grades["customer"]) == ("high", "medium")
    assert "members" in done("access", "tables", home.root)
    # A postcode's zero is part of it.
    kept = ColumnStore(home)._read("members", ("postcode",))
    assert kept.column(0).to_pylist() == ["01067", "99084"]


def test_a_table_whose_rows_are_about_nobody_says_so(home: RegionHome, tmp_path: Path) -> None:
    file = tmp_path / "prices.parquet"
    pyarrow.parquet.write_table(pa.table({"item": ["a"], "price": [1.5]}), file)
    with pytest.raises(InputError, match="no column 'customer'"):
        done("access", "keep", home.root, "catalogue", file)
    done("access", "keep", home.root, "catalogue", file, "--subject", "")
    assert ColumnStore(home).manifest().tables["catalogue"].subject is None


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.csv", b"", "cannot be read"),
        ("x.csv", b"a,b\n1\n", "cannot be read"),
        ("x.parquet", b"not one", "cannot be read"),
        ("x.txt", b"a", "neither in .parquet nor in .csv"),
        ("missing.csv", None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_table_is_said(
    home: RegionHome, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        done("access", "keep", home.root, "members", tmp_path / name)


def test_a_row_that_breaks_a_file_is_told_by_its_place_and_not_by_what_it_says(
    home: RegionHome, tmp_path: Path
) -> None:
    file = tmp_path / "members.csv"
    file.write_text("customer,email\n7,a@shop.example\n8,b@shop.example,Baker Street\n")
    with pytest.raises(InputError, match="Expected 2 columns, got 3") as refused:
        done("access", "keep", home.root, "members", file)
    shown = "".join(traceback.format_exception(refused.value))
    assert "shop.example" not in shown
    assert "Baker" not in shown


def test_the_key_is_turned_and_the_backup_of_keys_is_told_of_it(
    home: RegionHome, tmp_path: Path
) -> None:
    backup = tmp_path / "backup" / "keys"
    backup.mkdir(parents=True)
    for path in home.keys.iterdir():
        (backup / path.name).write_bytes(path.read_bytes())
        (backup / path.name).chmod(0o600)
    held, _ = backup_faults(home, backup.parent)
    assert "columns' key" in held
    assert str(home.columns_key) in done("access", "turn-key", home.root)
    _, faults = backup_faults(home, backup.parent)
    assert "Its columns' key is not the home's present one: replace it." in faults


def test_erasing_a_customer_takes_their_rows_out_of_kept_tables(home: RegionHome) -> None:
    with open_home(home) as opened:
        opened.registrar.record([Choice.give("anna", ALL)])
    told = json.loads(done("erase", home.root, "anna", "--yes", "--json"))
    assert told["kept_rows"] == 2
    assert ColumnStore(home)._read(TABLE, ("customer",)).column(0).to_pylist() == ["ben"]


def test_erasing_a_customer_takes_out_what_is_kept_under_keys_of_a_channel(
    home: RegionHome,
) -> None:
    folder = home.source.parent
    folder.mkdir(exist_ok=True)
    (folder / "keys.csv").write_text(
        "channel,key,customer\nweb,w1,anna\nweb,w2,ben\nweb,anna,ben\n"
    )
    (folder / "tables.toml").write_text(KEPT_BY_KEYS)
    # Ben calls himself "anna" there.
    accounts, levels = ["w1", "w2", "w1", "anna"], ["gold", "silver", "gold", "silver"]
    rows = pa.table({"account": accounts, "level": levels})
    grades: dict[str, Grade] = {"account": "medium", "level": "low"}
    ColumnStore(home).keep("accounts", rows, grades, subject="account")
    with open_home(home) as opened:
        opened.registrar.record([Choice.give("anna", ALL)])
    told = json.loads(done("erase", home.root, "anna", "--yes", "--json"))
    assert told["kept_rows"] == 2 + 2
    assert ColumnStore(home)._read("accounts", ("account",)).column(0).to_pylist() == ["w2", "anna"]


KEPT_BY_KEYS = """
[keys]
kind = "files"
path = "keys.csv"
[keys.columns]
channel = "channel"
key = "key"
customer = "customer"
[members]
kind = "kept"
table = "accounts"
channel = "web"
[members.columns]
customer = "account"
level = "level"
"""


def test_what_is_written_is_its_owners_alone_and_replaces_nothing(tmp_path: Path) -> None:
    out = tmp_path / "email.parquet"
    client.governance.table_files.write_parquet(ROWS, out)
    assert out.stat().st_mode & 0o777 == 0o600
    assert pyarrow.parquet.read_table(out).equals(ROWS)
    with pytest.raises(InputError, match="there already"):
        client.governance.table_files.write_parquet(ROWS, out)


def test_a_desk_that_shows_another_request_gets_no_approval(
    home: RegionHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is signed is the hash of what was shown, worked out on the approver's side."""
    shown = client.governance.access_socket.ListedGrant(
        {"requester": "analyst-1", "request_id": "x"}, b"{}"
    )
    monkeypatch.setattr(client.governance.access_socket.AccessClient, "find", lambda *_: shown)
    with pytest.raises(InputError):
        done("access", "approve", home.root, "x", "--yes", "--desk", tmp_path / "s")
