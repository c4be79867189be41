from __future__ import annotations

import base64
import copy
import hashlib
import re
import stat
from itertools import pairwise
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from client.engine.entries import ACCOUNTANT
from common.audit.verify.verdict import COMPLETENESS, LIMITS, STEPS, Findings
from server.model_card import CARD_FILES
from simulations.report import render_report, write_report
from tests.support.html_page import Element, parse_page
from tests.support.report_inputs import REGIONS, digest, report_inputs, verdict
from tests.support.report_metrics import METHODS, attacks, metrics

MAX_BYTES = 500_000


def rendered(**changes) -> Element:
    return parse_page(render_report(**{**report_inputs(), **changes}))


@pytest.fixture(scope="module")
def page() -> Element:
    return rendered()


def section(page: Element, name: str) -> Element:
    return next(each for each in page.all("section") if each.attributes["aria-labelledby"] == name)


def table(page: Element, caption: str) -> Element:
    return next(
        each for each in page.all("table") if each.first("caption").text.startswith(caption)
    )


# Attacks


def test_what_attacks_found_stands_beside_chance_and_what_epsilon_allows() -> None:
    rows = table(rendered(), "Membership inference").first("tbody").all("tr")
    cells = [[cell.text for cell in (*row.all("th"), *row.all("td"))] for row in rows]
    assert cells[0][1:] == ["50.0%", "51.2% [50.2, 52.2]", "74.1% [73.1, 75.1]", "99.97%"]
    assert cells[2][1:] == ["1.0%", "1.1% [0.6, 2.3]", "19.3% [9.7, 38.7]", "99.97%"]
    text = section(rendered(), "budget").text
    assert "within what ε allows" in text
    assert "at least 2.90 (with 95% confidence); claimed is 8" in text


def test_an_attack_that_finds_more_than_epsilon_allows_is_said_loudly() -> None:
    found = {**metrics(), "attacks": attacks(epsilon=8.6)}
    assert "something is wrong with the noise" in section(rendered(metrics=found), "budget").text


def test_without_attacks_the_page_says_so() -> None:
    for found in ({**metrics(), "attacks": None}, _without(metrics(), "attacks")):
        text = section(rendered(metrics=found), "budget").text
        assert "None were tried on this run" in text
        assert "fedpref-sim audit" in text
    local = {**metrics(), "attacks": {**attacks(), "canaries": None}}
    assert "plants" not in section(rendered(metrics=local), "budget").text


def _without(record, name):
    return {key: value for key, value in record.items() if key != name}


def test_steps_on_samples_are_told_as_such() -> None:
    plan = report_inputs()["plan"]
    sampled = {
        **plan,
        "local_training": {},
        "mechanisms": [
            plan["mechanisms"][0],
            {**plan["mechanisms"][1], "steps": 20, "sampling_probability": "0.05"},
        ],
    }
    text = section(rendered(plan=sampled), "budget").text
    assert "20 such steps a round" in text
    assert "with a probability of 0.05" in text
    assert "every eligible customer in every round" not in text


# The verdict


def test_the_verdict_comes_first(page):
    assert page.first("title").children == [
        "Verified: retail-5-20261103-140501-a3f09c – fedpref run report"
    ]
    first = page.first("main").first("section")
    assert first.first("h2").text == "Verified"
    assert "whole and unaltered" in first.text
    assert page.all("h2")[0].text == "Verified"


def test_what_the_evidence_cannot_prove_is_said_in_full(page):
    text = section(page, "verdict").text
    assert all(limit.replace("'", "’") in text for limit in LIMITS)


def test_a_broken_log_is_named_before_anything_else():
    first = rendered(verdict=verdict(verified=False)).first("main").first("section")
    assert first.first("h2").text == "Not verified"
    assert "first at log region-2, entry 701: The release comes before its charge." in first.text
    assert "Do not rely on any other figure" in first.text
    assert "charge-after-release" in first.text
    assert "whole and unaltered" not in first.text
    assert "stays within every cap" not in first.text


def test_a_gap_is_told_apart_from_a_change():
    findings = Findings()
    for step in range(len(STEPS)):
        findings.begin(step)
    findings.fail(COMPLETENESS, "round-missing", "Round 3 has no aggregate.", file="logs/server")
    incomplete = findings.verdict("retail-5.example", "run", ()).to_record()
    first = rendered(verdict=incomplete).first("main").first("section")
    assert first.first("h2").text == "Not verified"
    assert "unaltered, but not everything is there: Round 3 has no aggregate." in first.text


def test_every_step_has_its_result():
    findings = Findings()
    findings.begin(0)
    findings.count(0, "files", 1_234)
    findings.begin(1)
    findings.fail(1, "weak-key", "A root key is weak.", file="registry/1.json")
    record = findings.verdict("retail-5.example", "run", ()).to_record()
    rows = table(rendered(verdict=record), "What it checked").rows()[1:]
    assert [row[2].split(" ", 1)[1] for row in rows] == [
        "holds",
        "does not hold",
        *["not checked"] * (len(STEPS) - 2),
    ]
    assert rows[0][3] == "1,234 files"


# Consent


def test_consent_by_region_adds_up(page):
    rows = table(page, "Customers and their choices").rows()
    for row, (name, jurisdiction, customers, refused, withdrawals) in zip(
        rows[1:-1], REGIONS, strict=True
    ):
        consented = customers - refused
        assert row == [
            name,
            jurisdiction,
            str(customers),
            str(consented),
            f"{100 * consented / customers:.1f}%",
            str(refused),
            str(sum(withdrawals)),
        ]
    assert rows[-1] == ["All", "2,469", "2,320", "94.0%", "149", "75"]


def test_withdrawals_take_effect_round_by_round(page):
    rows = {row[0]: row[1:] for row in table(page, "Customers learnt from").rows()}
    assert rows["region-1"] == ["682", "675 (−7)", "666 (−9)", "660 (−6)", "660"]
    assert rows["region-4"] == ["342", "339 (−3)", "no part", "331 (−2)", "331"]
    assert "prospective" in section(page, "consent").text


# What left, and what it cost


def test_what_left_is_stated_to_the_byte(page):
    rows = table(page, "What a release holds").rows()[1:]
    assert rows[0][0] == "1"
    assert rows[0][1].startswith("popularity")
    assert rows[0][2:6] == ["32-bit float", "91,418", "91,418", "365,672"]
    assert rows[1][0] == "2–5"
    assert rows[1][2:] == [
        "32-bit float",
        "200 × 8",
        "1,600",
        "6,400",
        "C = 0.3",
        "0.43 1.433 × 0.3",
    ]
    by_region = {row[0]: row[1:] for row in table(page, "Bytes that left").rows()}
    assert by_region["region-1"] == ["365,672", *["6,400"] * 4, "391,272"]
    assert by_region["region-4"] == ["365,672", "6,400", "–", "6,400", "6,400", "384,872"]
    assert by_region["All regions"] == ["1,949,960"]


def test_every_release_is_listed_with_its_digest(page):
    rows = table(page, "Releases and the SHA-256").rows()[1:]
    assert len(rows) == 24
    for number, region, _, _, update in rows:
        assert update.replace(" ", "") == digest(f"{region} {number}")


def test_epsilon_is_rounded_up_and_stands_beside_its_cap(page):
    rows = {row[0]: row[1:] for row in table(page, "ε of this run").rows()}
    assert rows["region-1"] == [
        "2.8062",
        "4.5194",
        "5.8916",
        "7.0149",
        "7.9993",
        "7.9993",
        "8",
        "0.0007",
    ]
    assert rows["region-4"][2] == "–"


@pytest.mark.parametrize("name", ["summary", "budget", "quality"])
def test_wherever_an_epsilon_stands_it_says_what_it_means(page, name):
    text = section(page, name).text
    assert re.search(r"ε (= )?\d", text)
    for needed in ("per customer", "add or remove one", "δ = 10−6", "Gaussian", ACCOUNTANT):
        assert needed in text


def test_what_epsilon_allows_is_said_in_plain_numbers(page):
    text = section(page, "budget").text
    assert "At ε = 7.9993 one customer’s purchases may change the odds" in text
    assert "by a factor of up to 2,979. That limits" in text
    inputs = report_inputs()
    inputs["history"]["regions"][0]["epsilon_spent"] = "900"
    assert "up to more than a million" in section(rendered(**inputs), "budget").text


def test_a_region_over_its_cap_is_drawn_as_such():
    inputs = report_inputs()
    inputs["history"]["regions"][1]["epsilon_spent"] = "9.5"
    bars = [
        rectangle
        for rectangle in section(rendered(**inputs), "budget").all("rect")
        if "k-failed" in rectangle.classes
    ]
    assert len(bars) == 1


# Quality


def quality_cells(page: Element) -> dict[tuple[str, ...], str]:
    """(panel, method, setting, metric) → what the table says."""
    cells = {}
    for each in section(page, "figures").all("table"):
        if "dense" not in each.classes:
            continue
        head, *rows = each.rows()
        for row in rows:
            for title, cell in zip(head[2:], row[2:], strict=True):
                key = (each.first("caption").text, row[0], row[1], title)
                assert key not in cells
                cells[key] = cell
    return cells


@pytest.mark.parametrize("with_refusals", [True, False])
def test_every_row_of_the_study_is_in_the_table_and_none_besides(with_refusals):
    study = metrics(with_refusals=with_refusals)
    cells = quality_cells(rendered(metrics=study))
    titles = {
        "ndcg@10": "NDCG@10",
        "recall@20": "Recall@20",
        "hit_rate@10": "HR@10",
        "coverage@10": "Coverage",
    }
    seen = set()
    for row in study["rows"]:
        caption = next(
            each
            for each in {key[0] for key in cells}
            if f"({row['protocol'].upper()})" in each
            and (("5,000 items" in each) == (row["universe"] == "top-5000"))
        )
        setting = {"no_refusals": "nobody refuses", "with_refusals": "this run’s refusals"}
        key = (caption, row["label"], setting[row["setting"]], titles[row["metric"]])
        expected = f"{row['mean']:.4f}"
        if row["ci_low"] is not None:
            expected += f" {row['ci_low']:.4f}–{row['ci_high']:.4f}"
        assert cells[key] == expected
        seen.add(key)
    assert {key for key in cells if not key[3].startswith("×")} == seen


def test_methods_stand_in_the_chart_best_first_and_those_ahead_are_named(page):
    figure = section(page, "quality").all("figure")[0]
    names = [each.text for each in figure.walk() if "name" in each.classes]
    by_value = sorted(
        (value[:2] for value in METHODS.values() if value[1] is not None),
        key=lambda each: -each[1],
    )
    assert names == [label for label, _ in by_value]
    text = section(page, "quality").text
    assert "Ahead of what a customer would be served" in text
    assert "here: EASE, centralised" in text


def test_a_loss_is_said_as_plainly_as_a_gain():
    study = metrics()
    for row in study["rows"]:
        if row["method"] == "fedpref_tilt" and row["ratio_to_popularity"]:
            row["ratio_to_popularity"] = {"mean": 0.9, "ci_low": 0.85, "ci_high": 0.96}
        if row["method"] == "fedpref_fused" and row["setting"] == "with_refusals":
            row["ratio_to_personal_recency"] = {"mean": 1.0, "ci_low": 0.99, "ci_high": 1.01}
    text = section(rendered(metrics=study), "summary").text
    assert "0.900 × global popularity’s" in text
    assert "clearly worse" in text
    assert (
        "That is clearly better if nobody refuses; no clear difference with this run’s refusals."
        in text
    )


def test_dots_stand_where_their_values_are(page):
    marks = [
        each
        for each in section(page, "quality").all("figure")[0].all("svg")
        if each.attributes.get("role") == "img"
    ]
    places = [float(each.all("svg")[1].attributes["x"].rstrip("%")) for each in marks]
    assert places == sorted(places, reverse=True)
    assert "0.0539 (0.0508–0.0570), 1.25 × popularity" in marks[5].attributes["aria-label"]


def test_how_much_the_factors_bring_is_computed_from_the_rows():
    text = section(rendered(), "summary").text
    # Served 0.0539 and 0.4341, without factors 0.0458 and 0.4338, references 0.0431 and 0.4305.
    assert "Of the gain on new items, 25% comes from the same noised popularity" in text
    assert "and 75% from the shared factors (without them 1.063 ×" in text
    assert "with popularity that has no noise 1.077 ×" in text
    assert "Of the gain on all later purchases, 92% comes from the same noised" in text
    assert "Without the factors NDCG@10 is 0.999 × what it is with them" in text
    assert text.count("no clear difference.") >= 1

    study = metrics()
    for row in study["rows"]:
        if row["method"] == "no_factors" and row["metric"] == "ndcg@10":
            row["mean"] = 0.06 if row["protocol"] == "new" else 0.42
    text = section(rendered(metrics=study), "quality").text
    assert "Of the gain on new items, all comes from the same noised" in text
    assert "Of the gain on all later purchases, all comes from the shared factors" in text


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.996, 1.004, "no clear difference"),
        (1.001, 1.005, "clearly better"),
        (0.99, 0.998, "clearly worse"),
    ],
)
def test_regions_alone_are_told_by_their_interval(low, high, words):
    study = metrics()
    for row in study["rows"]:
        if row["method"] == "local_only" and row["ratio_to_served"]:
            row["ratio_to_served"] = {"mean": (low + high) / 2, "ci_low": low, "ci_high": high}
    sentences = [each.text for each in section(rendered(metrics=study), "summary").all("p")]
    told = next(each for each in sentences if "on all later purchases (" in each)
    assert told.endswith(f"({low:.3f}–{high:.3f}): {words}.")


def test_a_gain_that_is_none_has_no_source():
    study = metrics()
    for row in study["rows"]:
        if row["method"] == "fedpref_tilt" and row["metric"] == "ndcg@10":
            row["mean"] = 0.04
    text = section(rendered(metrics=study), "summary").text
    assert "On new items there is no gain whose source could be told." in text


def test_the_ablations_and_the_larger_sizes_stand_in_chart_and_table(page):
    cells = {key[:2] for key in quality_cells(page)}
    figures = section(page, "quality").all("figure")
    for name in ("no_factors", "popularity_tilt", "personal_popularity", "centralised_no_dp_large"):
        label, new, repeat, _ = METHODS[name]
        assert {label} <= {method for _, method in cells}
        for figure, value in zip((figures[0], figures[2]), (new, repeat), strict=True):
            names = [each.text for each in figure.walk() if "name" in each.classes]
            assert (label in names) == (value is not None)
    text = section(page, "quality").text
    assert "With sizes chosen for none, NDCG@10 on new items is 1.095 × that" in text
    assert "equal by construction" in text


def test_the_earlier_weeks_stand_beside_the_headline():
    text = section(rendered(), "summary").text
    assert "These figures are of weeks 49–53. On weeks 44–48" in text
    assert "NDCG@10 is 1.251 × global popularity’s on new items" in text
    assert "Both were seen while the constants were chosen." in text
    assert "On weeks 44–48: 1.25 × (" in text
    rows = table(rendered(), "NDCG@10 on weeks 44–48").rows()[1:]
    assert [row[0] for row in rows] == ["NEW"] * 4 + ["ALL"] * 4
    assert rows[0][1:] == [METHODS["fedpref_tilt"][0], "0.0539 0.0508–0.0570",
                           "1.251 1.191–1.311", "–"]  # fmt: skip
    without = rendered(metrics=metrics(with_earlier=False)).first("body").text
    assert "44–48" not in without


# What leaves besides the sums


def test_what_the_receipts_tell_is_said_in_plain_words(page):
    text = section(page, "releases").text
    assert "the exact size of the region’s log" in text
    assert "exactly how many choices a region’s customers had recorded" in text
    assert "how many chose anew" in text
    assert "no-consent or data-quality tells something" in text
    assert "no exact count" not in page.first("body").text
    assert "only noised sums" not in page.first("body").text
    assert "What the coordinator learns without noise" in section(page, "consent").text
    assert "consent log’s exact size" in section(page, "summary").text
    assert "gets them with each release" in section(page, "evidence").text


def test_the_page_says_that_the_manifest_does_not_cover_it(page):
    assert "report.html, is itself not covered by the signed manifest" in (
        section(page, "verdict").text
    )


def test_what_was_not_measured_says_why(page):
    assert "“Own purchases by frequency” on NEW, because it ranks only own purchases" in (
        section(page, "figures").text
    )


# Rounds, data, evidence


def test_rounds_and_incidents(page):
    rows = table(page, "Who took part").rows()
    assert rows[3][2:] == [
        "✓ accepted 512–1023",
        "✓ accepted 512–1023",
        "✓ accepted 256–511",
        "✕ refused update-shape",
        "✓ accepted 256–511",
    ]
    assert table(page, "Refusals and faults").rows()[1][1:3] == ["server", "reply-refused"]


def test_data_quality_by_reason(page):
    rows = {row[0]: row[1:] for row in table(page, "Data quality").rows()}
    assert rows["left out: quantity-out-of-range"] == ["0", "34", "68", "102", "136"]
    assert rows["Score"][0] == "100.0%"
    assert rows["Threshold"] == ["98%"] * 5


def test_logs_keys_and_commands(page):
    rows = {row[0]: row[1:] for row in table(page, "The logs").rows()}
    assert rows["region-3"][1].replace(" ", "") == digest("region-3")
    commands = [each.text for each in section(page, "evidence").all("pre")]
    assert commands[0] == "fedpref-audit verify RUN"
    assert f"--root-key {digest('root 1')}" in commands[1]
    assert "--scenario retail-5" in commands[-1]


def test_a_run_with_nothing_in_it_still_gives_a_page():
    inputs = report_inputs()
    inputs["history"].update(rounds=[], incidents=[])
    inputs["history"]["regions"][0].update(epsilon_spent="0", customers=0, consented=0, refused=0)
    for region in inputs["history"]["regions"]:
        region["quality"]["reasons"] = {}
    page = rendered(**inputs)
    assert "No round was completed." in section(page, "rounds").text
    assert "None was logged." in section(page, "rounds").text


def test_careful_words(page):
    text = page.first("body").text
    assert "tamper-evident" in text
    assert "immutable" not in text.lower()
    for name in ("consent", "quality", "data"):
        assert "simulation only" in section(page, name).text


# The page as a file


def test_the_page_is_small_whole_and_readable(tmp_path: Path):
    path = tmp_path / "report.html"
    write_report(path, **report_inputs())
    assert path.stat().st_size < MAX_BYTES
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


def test_a_report_that_cannot_be_made_leaves_the_old_one(tmp_path: Path):
    path = tmp_path / "report.html"
    path.write_text("old")
    inputs = report_inputs()
    del inputs["settings"]["engine"]
    with pytest.raises((KeyError, UndefinedError)):
        write_report(path, **inputs)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


def test_nothing_is_loaded_and_nothing_runs(page):
    assert not [
        element.tag
        for element in page.walk()
        if element.tag in {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    ]
    for element in page.walk():
        assert not any(name.startswith("on") or name == "style" for name in element.attributes)
        for name in ("href", "src", "xlink:href", "action"):
            target = element.attributes.get(name, "#")
            # The model's card lies beside the page: it is there to be opened, not loaded.
            assert target.startswith("#") or (element.tag == "a" and target in CARD_FILES)
    (style,) = page.all("style")
    sources = re.findall(r"url\(([^)]{0,40})", "".join(map(str, style.children)))
    assert len(sources) == 3
    assert all(source.startswith("data:font/woff2;base64,") for source in sources)
    assert "@import" not in "".join(map(str, style.children))


def test_the_content_security_policy_allows_this_style_sheet_only(page):
    policy = next(
        each.attributes["content"]
        for each in page.all("meta")
        if each.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    css = "".join(str(child) for child in page.first("style").children)
    hashed = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    assert policy.split("; ") == [
        "default-src 'none'",
        f"style-src 'sha256-{hashed}'",
        "font-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]


HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}'"


def hostile_inputs():
    inputs = copy.deepcopy(report_inputs())
    history, plan = inputs["history"], inputs["plan"]
    inputs["settings"].update(title=HOSTILE, run_id=HOSTILE, engine=HOSTILE, scenario=HOSTILE)
    for incident in history["incidents"]:
        incident.update(party=HOSTILE, reason=HOSTILE, detail=HOSTILE)
    for each in history["rounds"]:
        for part in each["regions"]:
            part["region"] = HOSTILE if part["region"] == "region-1" else part["region"]
            part.update({"reason": HOSTILE} if part["status"] != "accepted" else {})
            for array in part.get("arrays", ()):
                array["name"] = HOSTILE
            if "update" in part:
                part.update(update=HOSTILE, n_bucket=HOSTILE)
        each.update(mechanism=HOSTILE, model_in=HOSTILE, model_out=HOSTILE)
    history["regions"][0].update(region=HOSTILE, jurisdiction=HOSTILE, log_root=HOSTILE)
    history["regions"][0]["quality"].update(region=HOSTILE, reasons={HOSTILE: 1})
    history["seconds"][HOSTILE] = 1.0
    plan["mechanisms"] = [{**plan["mechanisms"][0], "name": HOSTILE, "clipping_norm": "1"}]
    plan.update(mode=HOSTILE, neighboring_relation=HOSTILE)
    for name in ("notes", "cannot_prove"):
        inputs["verdict"][name] = [HOSTILE]
    inputs["verdict"].update(verified=False, integrity=False, failures_total=1)
    failure = {"step": 6, "code": HOSTILE, "message": HOSTILE, "file": HOSTILE}
    failure.update(party=None, index=None)
    inputs["verdict"].update(failures=[failure], first_failure=failure)
    inputs["verdict"]["steps"][0].update(title=HOSTILE, clause=HOSTILE, counts={HOSTILE: 3})
    inputs["verdict"]["root_keys"][0]["key_id"] = HOSTILE
    for row in (*inputs["metrics"]["rows"], *inputs["metrics"]["methods"]):
        row["label"] = HOSTILE + row["method"]
    inputs["metrics"]["not_applicable"][0]["why"] = HOSTILE
    return inputs


def test_hostile_text_stays_text():
    page = rendered(**hostile_inputs())
    assert not page.all("script")
    assert not page.all("img")
    assert not any("onerror" in element.attributes for element in page.walk())
    assert "49" not in page.first("h1").text
    text = page.first("body").text
    assert text.count("<script>alert(1)</script>") > 40
    labels = [each.attributes.get("aria-label", "") for each in page.walk()]
    assert any("<script>" in label for label in labels)


# Accessibility that can be judged without a browser


def test_landmarks_headings_and_anchors(page):
    for tag in ("header", "nav", "main", "footer", "h1"):
        assert len(page.all(tag)) == 1, tag
    levels = [int(each.tag[1]) for each in page.walk() if re.fullmatch("h[1-6]", each.tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [each.attributes["id"] for each in page.walk() if "id" in each.attributes]
    assert len(ids) == len(set(ids))
    for link in page.all("a"):
        assert link.attributes["href"].removeprefix("#") in {*ids, *CARD_FILES}
    assert {each.attributes["href"] for each in page.all("a")} >= {*CARD_FILES}
    for each in page.all("section"):
        assert each.attributes["aria-labelledby"] in ids
    linked = [each.attributes["href"] for each in page.first("nav").all("a")]
    assert linked == [f"#{each.attributes['aria-labelledby']}" for each in page.all("section")]


def test_tables_have_captions_and_scopes_and_scroll_by_keyboard(page):
    tables = page.all("table")
    assert len(tables) > 15
    for each in tables:
        assert each.first("caption").text
        assert all("scope" in header.attributes for header in each.all("th"))
        for row in each.all("tr"):
            assert row.all("th") or row.all("td")
    boxes = [each for each in page.walk() if "scroll" in each.classes]
    assert len(boxes) == len(tables)
    for box in boxes:
        assert box.attributes["tabindex"] == "0"
        assert box.attributes["role"] == "region"
        assert box.attributes["aria-label"]
    labels = [box.attributes["aria-label"] for box in boxes]
    assert len(labels) == len(set(labels))


def test_every_chart_says_its_numbers_and_every_figure_has_a_caption(page):
    for figure in page.all("figure"):
        assert figure.first("figcaption").text
        assert any(each.attributes.get("role") == "img" for each in figure.all("svg"))
    for drawing in page.all("svg"):
        inside_another = "x" in drawing.attributes
        if drawing.attributes.get("role") == "img":
            assert re.search(r"\d|no part", drawing.attributes["aria-label"])
        else:
            assert inside_another or drawing.attributes.get("aria-hidden") == "true"


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_colours_have_enough_contrast(page, scheme):
    css = "".join(str(child) for child in page.first("style").children)
    blocks = [dict(re.findall(r"--([a-z-]+):\s*(#[0-9a-f]{3,6});", part)) for part in
              re.findall(r":root \{(.*?)\}", css, flags=re.DOTALL)]  # fmt: skip
    colours = {
        name: value if len(value) == 7 else "#" + "".join(2 * digit for digit in value[1:])
        for name, value in blocks[["light", "dark", "print"].index(scheme)].items()
    }
    for text, ground in (
        *((name, "paper") for name in ("ink", "soft", "accent", "good", "bad", "orange")),
        *((name, "good-soft") for name in ("ink", "soft", "good")),
        *((name, "bad-soft") for name in ("ink", "soft", "bad")),
        ("ink", "faint"),
    ):
        assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for shape in ("accent", "orange", "grey", "soft"):
        assert contrast(colours[shape], colours["paper"]) >= 3.0, shape


# How updates become one


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("median", "the median of each number"),
        ("trimmed-mean", "the 1 largest and smallest left out"),
        ("krum", "Krum, the update that is nearest"),
    ],
)
def test_a_robust_run_says_so_and_what_it_costs(rule: str, words: str) -> None:
    plan = report_inputs()["plan"]
    aggregation = {"rule": rule, "tolerated": 1, "honest_survivors_min": 0}
    robust = rendered(plan={**plan, "aggregation": aggregation})
    assert words in robust.text
    assert "This run is robust" in robust.text
    assert "1 hostile region cannot move" in robust.text
    assert f"This run’s rule, {rule}, is no sum" in robust.text
    assert "confidential: no region’s numbers" not in robust.text


def test_a_sum_says_nothing_of_robustness(page: Element) -> None:
    assert "This run is robust" not in page.text
    assert "is no sum" not in page.text


def test_a_run_that_ended_early_says_why() -> None:
    plan = report_inputs()["plan"]
    stop = {"patience_rounds": 2, "least_signal": "0.02"}
    ended = rendered(plan={**plan, "early_stop": stop, "training_rounds": 9})
    text = section(ended, "rounds").text
    assert "The plan had 10 rounds. The run ended after 5" in text
    assert "below 0.02" in text
    whole = rendered(plan={**plan, "early_stop": stop})
    assert "The run ended after" not in section(whole, "rounds").text
