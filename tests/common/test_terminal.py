"""Every command ends with one message and a documented exit code."""

from __future__ import annotations

import pytest
import typer

from common import errors
from common.terminal import run_command


def app_that(outcome: BaseException | int | None) -> typer.Typer:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command()
    def act() -> int | None:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return app


def end_of(app: typer.Typer, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["fedpref-test", *arguments])
    with pytest.raises(SystemExit) as stop:
        run_command(app, on_interrupt="The same command goes on.")
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("What and where."), 2),
        (errors.InputError("What and where."), 3),
        (errors.FormatError("What and where."), 3),
        (errors.QualityGateError("What and where."), 4),
        (errors.ConsentError("What and where."), 5),
        (errors.BudgetError("What and where."), 6),
        (errors.PolicyError("What and where."), 7),
        (errors.VerificationError("What and where."), 8),
        (errors.FederationError("What and where."), 9),
        (errors.StorageError("What and where."), 10),
    ],
)
def test_an_error_of_ours_is_one_message_without_a_traceback(
    error: errors.FedprefError,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    error.remedy = "Do this."
    assert end_of(app_that(error), monkeypatch) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == ["Error: What and where.", "Do this."]


def test_markup_in_a_message_is_shown_not_obeyed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    end_of(app_that(errors.InputError("column [bold]x[/bold]")), monkeypatch)
    assert "[bold]x[/bold]" in capsys.readouterr().err


def test_ctrl_c_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end_of(app_that(KeyboardInterrupt()), monkeypatch) == 130
    assert "Interrupted. The same command goes on." in capsys.readouterr().err


def test_a_defect_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end_of(app_that(ZeroDivisionError("a defect")), monkeypatch) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_unknown_option_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end_of(app_that(None), monkeypatch, "--bogus") == 2
    assert "No such option" in capsys.readouterr().err


@pytest.mark.parametrize(("outcome", "code"), [(None, 0), (0, 0), (8, 8), (typer.Exit(4), 4)])
def test_a_commands_own_code_is_kept(
    outcome: int | BaseException | None, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert end_of(app_that(outcome), monkeypatch) == code
