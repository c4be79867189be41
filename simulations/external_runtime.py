"""What the runs outside of this process share: sockets, a quiet environment, how it ended.

Ray and the local SuperLink run the apps in processes of their own. The engines stay here, where the
regions' homes are open; the relays reach them over Unix sockets in a private folder.
"""

from __future__ import annotations

import json
import os
import site
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from common import errors
from common.engine_channel import (
    SOCKET_DIR_VARIABLE,
    SOCKET_VARIABLE,
    EngineChannel,
    serve_channel,
    socket_name,
)
from common.errors import FederationError, FedprefError
from server.config import ServerHome

# How a ServerApp says that it did what was asked of it.
_WELL_ENDED = ("run-finished", "run-paused")

#: Keeps Flower and Ray from calling anyone: no telemetry, no update check, no installing.
OFFLINE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray warns of a change to come, by an output that nobody can use.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextmanager
def engine_sockets(channels: Sequence[EngineChannel]) -> Iterator[dict[str, str]]:
    """Offers engines on Unix sockets while the body runs.

    Args:
        channels: The engines, in the order of the nodes' partition ids.

    Yields:
        The environment in which the relays find them, and in which nothing calls out.
    """
    with ExitStack() as stack:
        # A socket's path is short by the kernel's rule, Ray's sockets' too; a run's folder may lie
        # deep.
        short = tempfile.TemporaryDirectory(prefix="fedpref-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(short))
        for index, channel in enumerate(channels):
            stack.enter_context(serve_channel(channel, folder / socket_name(index)))
        environment = {
            **os.environ,
            **OFFLINE,
            SOCKET_DIR_VARIABLE: str(folder),
            "RAY_TMPDIR": str(folder),
            "PYTHONUSERBASE": site.getuserbase(),
            "HOME": str(folder),
        }
        # Ray, even when told to report nothing, asks the cloud's metadata service where it runs,
        # unless the home folder has this file.
        (folder / "ray_bootstrap_config.yaml").write_text("{}\n", encoding="utf-8")
        environment.pop(SOCKET_VARIABLE, None)
        # The outside witness is on this machine, whatever proxy the way out has.
        for name in ("no_proxy", "NO_PROXY"):
            environment[name] = ",".join(filter(None, [environment.get(name), "127.0.0.1"]))
        yield environment


class RunOutcome:
    """Reads from the coordinator's events how a run ended.

    Args:
        home: The coordinator's home; only events written from now on count.
    """

    def __init__(self, home: ServerHome) -> None:
        self._path = home.events
        self._start = self._path.stat().st_size if self._path.exists() else 0

    @property
    def ended(self) -> bool:
        """Whether the ServerApp has said how it ended."""
        return self._last_event().get("event") in (*_WELL_ENDED, "run-failed")

    def check(self, *, what: str, log: Path) -> None:
        """Returns if the run finished, or paused where it was asked to.

        Args:
            what: What ran it, for the message.
            log: Where its output is.

        Raises:
            FedprefError: As the ServerApp ended, or a FederationError if it never ran or was lost.
        """
        last = self._last_event()
        if last.get("event") in _WELL_ENDED:
            return
        if last.get("event") == "run-failed":
            kind = getattr(errors, str(last.get("error")), FederationError)
            if isinstance(kind, type) and issubclass(kind, FedprefError):
                raise kind(str(last.get("reason")), remedy=str(last.get("remedy", "")))
        raise FederationError(
            f"{what} ended without finishing the run.",
            remedy=f"Its output is in {log}; the same command goes on from here.",
        )

    def _last_event(self) -> dict[str, object]:
        if not self._path.exists():
            return {}
        with self._path.open("rb") as file:
            file.seek(self._start)
            # The last line may be on its way.
            lines = file.read().rpartition(b"\n")[0].splitlines()
        last = json.loads(lines[-1]) if lines else {}
        return last if isinstance(last, dict) else {}
