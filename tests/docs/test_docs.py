"""What the documentation says is true: its commands run, its links lead somewhere, its tables are
the code's own."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from client.consent_service.api import router as consent_routes
from client.consent_service.config import LimitSettings, LoginSettings, ServiceSettings
from client.data.quality import assess_quality
from client.data.source_config import (
    ColumnMapping,
    FileSourceConfig,
    SqlSourceConfig,
    load_source_config,
)
from client.data.sources import all_batches
from client.data.standards_contract import FAULTS
from client.engine.home import KEY_ROLES
from client.engine.policy import RegionPolicy
from client.governance.quality_changes import UNDOABLE
from client.inspection.findings import Kind
from client.settings_tables import Tables
from common import errors, terminal
from common.audit.entry import LOGGED_KINDS, SIGNING_ROLES
from common.audit.verify.logs import REGION_ROLES, SERVER_ROLES
from common.audit.verify.records import MANIFEST_SCHEMA, REGISTRY_SCHEMA, SCHEMAS
from common.audit.verify.verdict import LIMITS, STEPS
from common.catalogue import Catalogue
from common.egress_reasons import ENGINE_REASONS, RELAY_REASONS
from common.strategies import FACTORS, GRAM, SUMS
from common.sum_rules import FACTOR_SIZES, GRAM_SIZES
from common.training_rules import _SIZES as TRAINING_SIZES
from server.provisioning.federation_config import (
    FederationTable,
    RunTable,
    ServerTable,
    WaitsTable,
    WitnessTable,
)
from server.provisioning.federation_config import RegionTable as FederationRegion
from simulations.attacks.table import ATTACKS
from simulations.scenarios import SCENARIOS
from tests.common.audit.test_log_attacks import ATTACKS as LOG_ATTACKS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
ALL_PAGES = [*PAGES, *sorted(DOCS.glob("decisions/*.md")), *sorted(ROOT.glob("[CS]*.md"))]
Shell = Callable[[str, Path], "subprocess.CompletedProcess[str]"]

_FENCE = re.compile(
    r"(?:<!-- (?P<mark>[^>]*?) -->\n+)?^```(?P<language>[a-z]*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, with the line it begins at and the comment before it."""

    page: Path
    line: int
    language: str
    text: str
    mark: str

    @property
    def reason_not_run(self) -> str | None:
        """Why it is not executed, if it is marked so."""
        kind, _, reason = self.mark.partition(": ")
        return reason if kind == "not run" else None

    @property
    def exit_code(self) -> int:
        """What it must end with."""
        kind, _, code = self.mark.partition(": ")
        return int(code) if kind == "exit code" else 0


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, found.start("language")) + 1,
            found["language"],
            found["text"],
            found["mark"] or "",
        )
        for found in _FENCE.finditer(text)
    ]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def tables(page: Path) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Each table's head and rows, cells stripped."""
    lines = [*prose(page).splitlines(), ""]
    rows: list[list[str]] = []
    for line in lines:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
        elif rows:
            yield rows[0], rows[2:]
            rows = []


def table(page: Path, *head: str) -> list[list[str]]:
    """The rows of the one table whose head begins so; several such tables are joined."""
    found = [rows for titles, rows in tables(page) if titles[: len(head)] == list(head)]
    assert found, f"{page.name} has no table that begins {head}"
    return [row for rows in found for row in rows]


def codes(cell: str) -> list[str]:
    """What a cell has in code type."""
    return re.findall(r"`([^`]+)`", cell)


# Commands


def named(pages: list[Path]) -> list[object]:
    return [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in pages]


#: Run by tests/simulations/test_customer_story.py, which also looks at what each command says.
RUN_ELSEWHERE = {"customer-story.md"}
RUNNABLE = [
    page
    for page in PAGES
    if page.name not in RUN_ELSEWHERE
    and any(b.language == "sh" and b.reason_not_run is None for b in blocks(page))
]


@pytest.mark.parametrize("page", named(RUNNABLE))
def test_a_pages_commands_run(page: Path, shell: Shell, workspace: Path) -> None:
    for block in blocks(page):
        if block.language != "sh" or block.reason_not_run is not None:
            continue
        ended = shell(block.text, workspace)
        assert ended.returncode == block.exit_code, (
            f"{page.name}:{block.line} ended with {ended.returncode}:\n{block.text}\n"
            f"{ended.stdout}{ended.stderr}"
        )
        assert "Traceback" not in ended.stderr


def test_blocks_that_are_not_run_say_why_and_the_others_are_many() -> None:
    shown = [block for page in PAGES for block in blocks(page) if block.language == "sh"]
    for block in shown:
        if block.mark:
            kind, _, value = block.mark.partition(": ")
            assert kind in ("not run", "exit code"), f"{block.page.name}:{block.line}"
            assert value.strip(), f"{block.page.name}:{block.line}"
    assert sum(block.reason_not_run is None for block in shown) >= 15
    assert {page.name for page in RUNNABLE} >= {"operator.md", "compliance.md", "data-scientist.md"}


def test_every_block_says_what_it_is() -> None:
    known = {"sh", "toml", "text", ""}
    for page in ALL_PAGES:
        for block in blocks(page):
            assert block.language in known, f"{page.name}:{block.line}: {block.language}"


def test_toml_examples_are_declarations_of_stores(tmp_path: Path) -> None:
    examples = [block for page in PAGES for block in blocks(page) if block.language == "toml"]
    assert examples
    for block in examples:
        source = tmp_path / "source.toml"
        source.write_text(block.text, encoding="utf-8")
        load_source_config(source)


@pytest.fixture(scope="module")
def command_page() -> str:
    ended = subprocess.run(
        [sys.executable, str(DOCS / "commands.py"), "--stdout"],
        capture_output=True,
        text=True,
        check=True,
        # Its own environment must not depend on ours.
        env={"PATH": os.environ["PATH"], "FORCE_COLOR": "1", "COLUMNS": "40"},
    )
    return ended.stdout


def test_commands_page_is_what_the_commands_say(command_page: str) -> None:
    assert (DOCS / "commands.md").read_text(encoding="utf-8") == command_page, "run `make docs`"


@pytest.mark.parametrize("command", ["fedpref-server", "fedpref-audit verify"])
def test_commands_page_is_what_a_terminal_shows(
    command: str, command_page: str, shell: Shell, tmp_path: Path
) -> None:
    shown = shell(f"{command} --help", tmp_path).stdout
    section = command_page.partition(f"## {command}\n")[2].partition("```text\n")[2]
    expected = section.partition("```")[0]
    assert expected.split() == shown.split()


def test_every_program_has_its_section(command_page: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert len(project["scripts"]) == 4
    for program in project["scripts"]:
        assert f"\n## {program}\n" in command_page
    assert command_page.count("\n## ") > 2 * len(project["scripts"])


def test_commands_in_the_text_exist_with_their_options(command_page: str) -> None:
    parts = (part.partition("\n") for part in command_page.partition("\n## ")[2].split("\n## "))
    sections = {title: text for title, _, text in parts}
    checked = 0
    for page in ALL_PAGES:
        for code in codes(prose(page)):
            words = code.split()
            if len(words) < 2 or not words[0].startswith("fedpref-"):
                continue
            # A group's command is told from an argument by whether there is a section for it.
            paths = [" ".join(words[:length]) for length in range(2, len(words) + 1)]
            assert paths[0] in sections, f"{page.name}: `{code}`"
            name = [path for path in paths if path in sections][-1]
            for option in re.findall(r"--[a-z-]+", code):
                assert re.search(rf"{option}\b", sections[name]), f"{page.name}: `{code}`"
            checked += 1
    assert checked >= 5


# Links


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get on GitHub."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", named(ALL_PAGES))
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name}: {target}"
        assert linked == ROOT or ROOT in linked.parents, f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(linked), f"{page.name}: {target}"


# Tables that are the code's own


def subclasses(kind: type[errors.FedprefError]) -> Iterator[type[errors.FedprefError]]:
    for each in kind.__subclasses__():
        if each.__module__ == "common.errors":
            yield each
        yield from subclasses(each)


def test_exit_codes_are_those_of_the_errors() -> None:
    documented = [int(row[0]) for row in table(DOCS / "exit-codes.md", "code")]
    own = {errors.EXIT_OK, errors.EXIT_INTERNAL, errors.EXIT_USAGE, errors.EXIT_INTERRUPTED}
    raised = {each.exit_code for each in subclasses(errors.FedprefError)}
    assert documented == sorted(own | raised)
    in_help = re.findall(r"(\d+) [a-z]", terminal.EXIT_CODES)
    assert [int(code) for code in in_help] == documented


def fields_of(kind: str) -> set[str]:
    schema = {"keys": REGISTRY_SCHEMA, "manifest": MANIFEST_SCHEMA}.get(kind) or SCHEMAS[kind]
    return set(inspect.getclosurevars(schema).nonlocals["fields"]) - {"v"}


def test_entry_kinds_and_their_fields_are_the_verifiers() -> None:
    rows = table(DOCS / "compliance.md", "kind", "signed by")
    documented = {codes(row[0])[0]: row for row in rows}
    assert set(documented) == {f"fedpref-{kind}/1" for kind in [*SCHEMAS, "manifest"]}
    for name, (_, signed_by, where, fields) in documented.items():
        kind = name.removeprefix("fedpref-").removesuffix("/1")
        assert set(codes(fields)) == fields_of(kind), name
        roles = {role.removesuffix(" keys") for role in signed_by.split(" or ")}
        assert roles == set(SIGNING_ROLES[kind]), name
        if kind in LOGGED_KINDS and kind != "keys":
            in_logs = {"region": kind in REGION_ROLES, "server": kind in SERVER_ROLES}
            assert {log for log, there in in_logs.items() if there} == set(where.split(" or "))


def test_sizes_of_the_strategies_are_the_rules() -> None:
    rows = table(DOCS / "decisions/0021-strategies-and-their-rule.md", "customers in a region")
    stated = [
        (*tuple(int(re.sub(r"\D", "", cell)) for cell in row[1:4]), row[4].strip()) for row in rows
    ]
    assert stated == [
        (each.vocabulary_size, each.rank, each.steps, each.sampling_probability)
        for each in TRAINING_SIZES
    ]
    begins = [re.sub(r"\D", "", row[0].replace("(extrapolated)", "")) for row in rows[1:]]
    assert [int(begin) for begin in begins] == [each.customers_from for each in TRAINING_SIZES[1:]]


def test_steps_and_limits_are_the_verifiers() -> None:
    page = DOCS / "compliance.md"
    titles = [row[0] for row in table(page, "step")]
    assert titles == [f"{number} {title}" for number, (title, _) in enumerate(STEPS)]
    text = " ".join(prose(page).split())
    for limit in LIMITS:
        assert f"- {limit}" in text, limit


def test_each_attack_has_its_row_and_the_tests_it_names() -> None:
    rows = [
        *table(DOCS / "developer.md", "ids", "what is attacked"),
        *table(DOCS / "developer.md", "id", "what"),
    ]
    documented: list[str] = []
    for row in rows:
        for each in row[0].split(", "):
            first, _, last = each.partition(" to ")
            numbers = range(int(first[1:]), int((last or first)[1:]) + 1)
            documented += [f"{first[0]}{number}" for number in numbers]
        assert codes(row[-1])
        for path in codes(row[-1]):
            assert (ROOT / path).exists(), path
    logs = {attack.split()[0] for attack in LOG_ATTACKS}
    assert sorted(documented) == sorted({attack.id for attack in ATTACKS} | logs)


def test_settings_of_the_consent_service_are_its_own() -> None:
    rows = table(DOCS / "consent-service.md", "setting", "default", "meaning")
    documented = {codes(row[0])[0]: row[1] for row in rows}
    fields = {
        f"{section}.{name}": field
        for section, kind in (
            ("login", LoginSettings),
            ("service", ServiceSettings),
            ("limits", LimitSettings),
        )
        for name, field in kind.model_fields.items()
    }
    assert documented.keys() == fields.keys()
    for name, field in fields.items():
        default = "required" if field.is_required() else str(field.default or "none").lower()
        shown = {"login.url": "none", "service.hsts": "false"}.get(name, default)
        assert documented[name] == shown, name


def test_the_api_s_routes_are_those_it_has() -> None:
    rows = table(DOCS / "consent-service.md", "request", "answer")
    documented = {codes(row[0])[0].replace("RECORD_ID", "{record_id}") for row in rows}
    routes = [route for route in consent_routes.routes if isinstance(route, APIRoute)]
    assert documented == {f"{next(iter(each.methods))} {each.path}" for each in routes}


def test_plan_sizes_are_the_plans() -> None:
    rows = table(DOCS / "data-scientist.md", "strategy", "signal from")
    documented = {strategy: [] for strategy in SUMS}
    for strategy, start, size, rank, rounds, share in rows:
        sizes = (float(start), int(size), int(rank), int(rounds), share)
        documented[codes(strategy)[0]].append(sizes)
    assert documented == {
        FACTORS: [tuple(sizes) for sizes in FACTOR_SIZES],
        GRAM: [tuple(sizes) for sizes in GRAM_SIZES],
    }


def test_scenarios_are_all_there() -> None:
    rows = table(DOCS / "data-scientist.md", "scenario")
    assert [codes(row[0])[0] for row in rows] == list(SCENARIOS)


def test_policy_fields_are_the_policys() -> None:
    rows = [
        row
        for head, rows in tables(DOCS / "operator.md")
        if head == ["field", "meaning", "in simulations"]
        for row in rows
    ]
    assert [codes(row[0])[0] for row in rows] == list(RegionPolicy.model_fields)


def test_tables_of_the_settings_are_those_there_are() -> None:
    documented = [
        name
        for row in table(DOCS / "operator.md", "table", "what it says")
        for name in codes(row[0])
    ]
    assert sorted(documented) == sorted(f"[{name}]" for name in Tables.model_fields)


def test_problems_of_a_check_are_those_it_finds() -> None:
    rows = table(DOCS / "operator.md", "problem", "what is looked at")
    assert sorted(codes(row[0])[0] for row in rows) == sorted(Kind)


def test_source_fields_are_the_declarations() -> None:
    found = list(tables(DOCS / "operator.md"))
    documented = [
        [codes(row[0])[0] for row in rows]
        for head, rows in found
        if head == ["field", "type", "default", "meaning"]
    ]
    (mapping,) = [
        {codes(row[0])[0]: row[1] for row in rows}
        for head, rows in found
        if head == ["field", "required", "meaning"]
    ]
    shared, files, sql = map(set, documented)
    internal = {"columns", "base"}
    assert shared | files == set(FileSourceConfig.model_fields) - internal
    assert shared | sql == set(SqlSourceConfig.model_fields) - internal
    assert list(mapping) == list(ColumnMapping.model_fields)
    required = {name for name, field in ColumnMapping.model_fields.items() if field.is_required()}
    assert {name for name, needed in mapping.items() if needed == "yes"} == required


def test_fields_of_a_federation_are_the_declarations() -> None:
    documented: dict[str, set[str]] = {}
    name = ""
    for row in table(DOCS / "operator.md", "table", "field", "meaning"):
        name = (codes(row[0]) or [name])[0]
        documented.setdefault(name, set()).update(codes(row[1]))
    for heading, model in (
        ("[federation]", FederationTable),
        ("[server]", ServerTable),
        ("[[regions]]", FederationRegion),
        ("[[witnesses]]", WitnessTable),
        ("[run.NAME]", RunTable),
    ):
        assert documented[heading] == set(model.model_fields), heading
    assert documented["[waits]"] <= set(WaitsTable.model_fields)


_FAULTY_ROWS = """\
customer,item,time,units,paid,trip,shop,home
,beans,2024-02-01,1,1,t1,s,home
c1,,2024-02-01,1,1,t2,s,home
c1,beans,not a time,1,1,t3,s,home
c1,beans,2024-02-01,many,1,t4,s,home
c1,beans,2024-02-01,1,much,t5,s,home
c1,beans,2024-02-01,1,1,,s,home
c1,beans,2024-02-01,1,1,t6,,home
c1,beans,2024-02-01,1,1,t7,s,
c1,beans,2023-12-31,1,1,t8,s,home
c1,beans,2024-02-01,-1,1,t9,s,home
c1,beans,2024-02-01,1,1000001,t10,s,home
c1,granite,2024-02-01,1,1,t11,s,home
c2,beans,2024-02-01,1,1,t12,s,home
c2,beans,2024-02-01,1,1,t12,s,home
c3,beans,2024-02-01,1,1,t13,s,home
c3,beans,2024-02-01,1,1,t14,s,elsewhere
c2,voucher,2024-02-01,1,1,t15,s,home
"""
_FAULTY_SOURCE = """\
kind = "files"
path = "rows.csv"
period_from = 2024-01-01T00:00:00Z
period_until = 2025-01-01T00:00:00Z
home_stores = ["home"]
[columns]
customer = "customer"
item = "item"
time = "time"
quantity = "units"
amount = "paid"
basket = "trip"
store = "shop"
home_store = "home"
"""


def test_quality_reasons_are_those_the_gate_counts(tmp_path: Path) -> None:
    documented = {
        reason
        for row in table(DOCS / "operator.md", "reason", "the row")
        for reason in codes(row[0])
    }
    (tmp_path / "rows.csv").write_text(_FAULTY_ROWS, encoding="utf-8")
    (tmp_path / "source.toml").write_text(_FAULTY_SOURCE, encoding="utf-8")
    report = assess_quality(
        all_batches(load_source_config(tmp_path / "source.toml")),
        Catalogue.of(["beans"], excluded=["voucher"]),
        region="region-1",
    )
    assert set(report.reasons) == documented
    assert (report.rows_out_of_home, report.rows_out_of_scope) == (1, 1)


def test_faults_and_treatments_of_tables_are_those_there_are() -> None:
    faults = {
        fault for row in table(DOCS / "operator.md", "fault", "the row") for fault in codes(row[0])
    }
    assert faults == {*(f"COLUMN-{fault}" for fault in FAULTS), "row-repeated", "row-replaced"}
    treatments = {
        name
        for row in table(DOCS / "operator.md", "treatment", "what it does", "undone with")
        for name in codes(row[0])
    }
    assert treatments == set(UNDOABLE)


def test_refusal_codes_are_those_that_leave_a_region() -> None:
    documented = {
        code
        for row in table(DOCS / "operator.md", "code", "what it means")
        for code in codes(row[0])
    }
    sent = ENGINE_REASONS | RELAY_REASONS
    assert documented == sent


def test_codes_in_a_secure_sum_are_those_that_leave_a_region() -> None:
    documented = {
        code
        for row in table(DOCS / "operator.md", "code in a secure sum", "what it means")
        for code in codes(row[0])
    }
    raised: set[str] = set()
    for path in (
        *(ROOT / "common" / "secure_aggregation").glob("*.py"),
        ROOT / "client" / "engine" / "masking.py",
    ):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Name(id="SecureSumRefusedError"),
                    args=[ast.Constant(value=str(code)), *_],
                ):
                    raised.add(code)
                # Where the code depends on what differs.
                case ast.Constant(value=str(code)) if re.fullmatch(r"other-[a-z]+", code):
                    raised.add(code)
    # Only the coordinator can see this one.
    assert documented == raised - {"masks-do-not-cancel"}


def test_codes_with_distributed_noise_are_those_that_leave_a_region() -> None:
    documented = {
        code
        for row in table(DOCS / "operator.md", "code with distributed noise", "what it means")
        for code in codes(row[0])
    }
    raised: set[str] = set()
    for path in (
        *(ROOT / "common" / "double_masking").glob("*.py"),
        ROOT / "client" / "engine" / "executions.py",
    ):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Name(id="SecureSumRefusedError"),
                    args=[ast.Constant(value=str(code)), *_],
                ):
                    raised.add(code)
                # Where the code depends on what differs, or on the step.
                case ast.Constant(value=str(code)) if re.fullmatch(
                    r"other-[a-z]+|(un)?masked-already|step-repeated", code
                ):
                    raised.add(code)
    # Only the coordinator can see these.
    assert documented == raised - {"too-few-reveal", "secret-differs"}


def test_the_homes_files_are_all_named(workspace: Path) -> None:
    text = " ".join(codes(" ".join(row[0] for row in table(DOCS / "operator.md", "file"))))
    home = workspace / "runs" / "a" / "regions" / "region-1"
    for path in home.iterdir():
        name = re.sub(r"-(wal|shm)$|\.lock$", "", path.name)
        assert name in text, path.name
    (keys,) = [row[1] for row in table(DOCS / "operator.md", "file") if "`keys/*.pem`" in row[0]]
    assert set(codes(keys)) == set(KEY_ROLES)


def test_the_run_folders_files_are_all_named(workspace: Path) -> None:
    rows = table(DOCS / "data-scientist.md", "file")
    named_files = {name.rstrip("/") for row in rows for name in codes(row[0])}
    here = {path.name for path in (workspace / "runs" / "a").iterdir()} - {".lock"}
    assert here == named_files
