"""Starts attackers' processes, and hears what they found."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from common.errors import FederationError
from simulations.deployment_attacks.accounts import Account
from simulations.deployment_attacks.outcome import Found

_MODULE = "simulations.deployment_attacks.intruder"
#: For how long an attacker's process may take, in seconds.
PATIENCE_S = 300.0


@dataclass
class Attacker:
    """An attack under way, in a process of its own; a context that ends it, if it still runs.

    Attributes:
        action: What it does.
    """

    action: str
    _process: subprocess.Popen[str]

    @classmethod
    def start(
        cls,
        account: Account,
        action: str,
        given: Mapping[str, Any],
        *,
        environment: Mapping[str, str] | None = None,
    ) -> Attacker:
        """Starts an action of `simulations.deployment_attacks.actions` under an account.

        Args:
            account: Whose process it is.
            action: The action's name.
            given: What it is given: addresses, paths, a script.
            environment: What its environment has besides.
        """
        process = subprocess.Popen(  # noqa: S603  # our own program, no shell
            account.command([str(account.scripts / "python"), "-P", "-m", _MODULE]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(account.folder.parent / f"{account.name}-{action}.log").open("ab"),
            env=account.environment(**(environment or {})),
            cwd=account.folder,
            text=True,
        )
        if process.stdin is None:
            raise FederationError("An attacker's process has no standard input.")
        process.stdin.write(json.dumps({"action": action, **given}))
        process.stdin.close()
        process.stdin = None
        return cls(action, process)

    def found(self, *, within_s: float = PATIENCE_S) -> Found:
        """Waits till it is done; gives what it found.

        Raises:
            FederationError: It broke, or did not end: nothing is known of the attack then.
        """
        try:
            output, _ = self._process.communicate(timeout=within_s)
        except subprocess.TimeoutExpired as error:
            self._process.kill()
            self._process.wait()
            raise FederationError(
                f"The attacker's {self.action} did not end within {within_s:g} s."
            ) from error
        try:
            found: Found = json.loads(output)
        except ValueError as error:
            raise FederationError(
                f"The attacker's {self.action} ended without a word "
                f"(exit code {self._process.returncode})."
            ) from error
        if "broke" in found:
            raise FederationError(f"The attacker's {self.action} broke: {found['broke']}")
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Whatever went wrong meanwhile, it must not outlive the deployment that it attacks.
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def attack(
    account: Account,
    action: str,
    given: Mapping[str, Any],
    *,
    environment: Mapping[str, str] | None = None,
    within_s: float = PATIENCE_S,
) -> Found:
    """Carries out one action under an account, to its end.

    Raises:
        FederationError: As `Attacker.found`.
    """
    return Attacker.start(account, action, given, environment=environment).found(within_s=within_s)
