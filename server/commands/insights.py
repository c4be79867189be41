"""``fedpref-server insights``: runs of questions, and the page that their answers make."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from common.errors import EXIT_OK, InputError, UsageError


class PageLanguage(StrEnum):
    """The page's languages."""

    en = "en"
    zh = "zh"


def insights(
    where: Annotated[
        Path,
        typer.Argument(
            help="The folder of a finished run of questions: a bundle's, a simulated run's or a "
            "coordinator's home; or a deployment's."
        ),
    ],
    html: Annotated[Path, typer.Option(help="The HTML file to write.")],
    run: Annotated[
        list[str] | None,
        typer.Option(
            "--run",
            help="A deployment's run of questions; may be repeated: one page, with the ε of all. "
            "One that is not finished is queued, and waited for.",
        ),
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option(help="What is ranked, and by which weights: a TOML file. Default: ours."),
    ] = None,
    lang: Annotated[
        PageLanguage, typer.Option(help="The page's language: English or Chinese.")
    ] = PageLanguage.en,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print every answer with its intervals as JSON, too.")
    ] = False,
    made_at: Annotated[
        str | None,
        typer.Option(
            help="When the page was made, as 2026-01-31T23:59:59.999Z. Without it the page states "
            "no time, and is the same whoever makes it."
        ),
    ] = None,
    timeout_minutes: Annotated[
        int,
        typer.Option(min=1, max=60 * 24 * 30, help="How long to wait for queued runs."),
    ] = 60 * 24,
) -> int:
    """Write what regions' answers say as a page: preferences, movements, scenes, segments, wishes.

    It charges nothing but what a run that it queues does: answers are released once, and read as
    often as you like.
    """
    from common.page_file import check_page_file, write_page_file
    from common.timestamps import parse_time
    from server.commands.answers import load_answers
    from server.deployment import CONFIG_NAME
    from server.insights.findings import gather
    from server.insights.output import KIND, answers_json
    from server.insights.page import GENERATOR, render_insights
    from server.insights.settings import DEFAULT, read_settings

    if made_at is not None:
        parse_time(made_at)
    check_page_file(html, GENERATOR, KIND)
    ranked = read_settings(DEFAULT if settings is None else settings)
    if (where / CONFIG_NAME).is_file():
        _finish(where, run or [], timeout_minutes * 60.0)
    elif run:
        raise UsageError("--run goes with a deployment's folder.")
    names: list[str | None] = [*run] if run else [None]
    findings = gather([load_answers(where, name) for name in names])
    page = render_insights(findings, ranked, lang=lang.value, made_at=made_at)
    write_page_file(html, page, KIND)
    if as_json:
        typer.echo(answers_json(findings))
    else:
        console = Console(highlight=False, soft_wrap=True)
        console.print(f"The page is in {html}. ε = {findings.epsilon} for all on it.", markup=False)
    return EXIT_OK


def _finish(deployment: Path, runs: list[str], timeout_s: float) -> None:
    """Runs those of a deployment's runs that are not finished."""
    from server.commands.membership import open_deployment
    from server.commands.operation import wait_for
    from server.queue import require_run_name
    from server.queue import submit as queue_run

    if not runs:
        raise UsageError("A deployment has several runs.", remedy="Name one or more: --run.")
    opened, _ = open_deployment(deployment)
    console = Console(highlight=False, soft_wrap=True, stderr=True)
    for name in runs:
        home = opened.home(require_run_name(name))
        if not home.read_plan().asks:
            raise InputError(
                f"The run {name} trains a model; it asks nothing.",
                remedy="Name a run whose plan has questions.",
            )
        if not home.answers.is_file():
            entry = queue_run(opened, name)
            wait_for(opened.root, entry.number, timeout_s, console)
