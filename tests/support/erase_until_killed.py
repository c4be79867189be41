"""Erases a customer as the command does, in a process that is killed (SIGKILL) at a named step."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from client.commands.erase import erase
from client.engine.storage_key import StorageKeyFile
from client.engine.subjects import SubjectKeys


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after(method: Callable[..., Any]) -> Callable[..., Any]:
    def then_die(*arguments: Any) -> None:
        method(*arguments)
        die()

    return then_die


def die_at_activation(path: Path, target: Path) -> Path:
    if path.name == "storage.key.next":
        die()
    path.rename(target)
    return target


STEPS = {
    "withdrawal-logged": patch.object(SubjectKeys, "erase", die),
    "next-key-drawn": patch.object(StorageKeyFile, "draw_next", after(StorageKeyFile.draw_next)),
    "encrypted-not-committed": patch.object(
        SubjectKeys, "_encrypt_anew", after(SubjectKeys._encrypt_anew)
    ),
    "committed": patch.object(StorageKeyFile, "activate_next", die),
    "old-key-overwritten": patch.object(Path, "replace", die_at_activation),
    "next-key-in-place": patch.object(StorageKeyFile, "_remove_leftovers", die),
    "activated": patch.object(SubjectKeys, "_truncate", die),
}


def erase_until_killed(home: Path, customer: str, step: str) -> int:
    """Forks, erases in the child, and gives the signal that ended it; 0 if none did."""
    child = os.fork()
    if child == 0:
        try:
            with STEPS[step]:
                erase(home, customer, yes=True)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
