"""A relay that is none: it tries everything that its process might be able to reach.

It takes the honest relay's place in a bundle, so it has that bundle's modules and nothing else.
What to try comes with the bundle (``wanted.json``); what came of it is put into the answer, for the
coordinator to get, and told on standard error, for the experimenter to see in the region's own log.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from common.engine_channel import EngineChannel, resolve_channel
from common.engine_socket import SocketChannel
from common.errors import FedprefError
from common.messages import decode_message, encode_message

#: What came with the bundle, and how lines begin that tell what came of it.
WANTED, TOLD = "wanted.json", "evil-relay "
#: How tries are called that go to the engine past the relay, which is its only peer by right.
PAST_THE_RELAY = "past the relay:"
#: The tensor that nobody agreed on.
EXTRA = "purchases"
_PTRACE_ATTACH = 16
# How many process numbers back it looks: whoever started it, and its neighbours, are among them.
_NEARBY = 500
_TIMEOUT_S = 2.0

app = ClientApp()


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """Answers as the engine does, after it has tried what it was sent for, with what it found."""
    header, arrays = decode_message(message.content)
    channel = resolve_channel(context.node_config)
    wanted = json.loads((Path(__file__).parent / WANTED).read_text(encoding="utf-8"))
    found = _try_all(wanted)
    # The honest question comes first, so that there is an answer to smuggle what it found with.
    answer, answered = channel.call("describe", header, arrays)
    for method in wanted["methods"]:
        found[f"ask the engine for {method}"] = _attempt(partial(_ask, channel), method)
    _tell(found)
    loot = json.dumps(found).encode()
    extra = np.frombuffer(loot + b"\0" * (-len(loot) % 4), dtype="<i4")
    return Message(encode_message(answer, {**answered, EXTRA: extra}), reply_to=message)


def _try_all(wanted: Mapping[str, list[str]]) -> dict[str, str]:
    tries = {
        "read": _read,
        "write": _write,
        "connect": _connect,
        "start": _start,
        "processes nearby:": _nearby,
        PAST_THE_RELAY: _past_the_relay,
    }
    return {
        f"{what} {target}": _attempt(action, target)
        for what, action in tries.items()
        for target in wanted[what]
    }


def _attempt(action: Callable[[str], str], target: str) -> str:
    """What came of it: ``got ...`` if it succeeded, else by what it was refused."""
    try:
        return f"got {action(target)}"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, type(error).__name__)
    except FedprefError as error:
        return f"refused: {error.message}"


def _ask(channel: EngineChannel, method: str) -> str:
    answer, arrays = channel.call(method, {}, {})
    return f"{answer.get('status')} with {len(arrays)} arrays"


def _past_the_relay(target: str) -> str:
    """Asks the engine at its own socket, not over the one that the relay gave it."""
    method, _, path = target.partition(" at ")
    user = Path(path).stat().st_uid
    return _ask(SocketChannel(Path(path), timeout_s=_TIMEOUT_S, engine_user=user), method)


def _read(path: str) -> str:
    with Path(path).open("rb") as file:
        return f"{len(file.read(1 << 20))} bytes"


def _write(path: str) -> str:
    (Path(path) / "evil").write_bytes(b"evil")
    return "written"


def _connect(address: str) -> str:
    host, _, port = address.rpartition(":")
    if host:
        with socket.create_connection((host, int(port)), timeout=_TIMEOUT_S):
            return "a connection"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_TIMEOUT_S)
        connection.connect(address)
        return "a connection"


def _nearby(what: str) -> str:
    """Tries a thing with every process that was started shortly before this one."""
    own, reached, refused = os.getpid(), [], OSError(errno.ESRCH, "no process")
    for process in range(max(1, own - _NEARBY), own):
        try:
            _ON_PROCESSES[what](process)
        except OSError as error:
            # That there is none says nothing of those that there are.
            refused = error if error.errno not in (errno.ENOENT, errno.ESRCH) else refused
        else:
            reached.append(process)
    if not reached:
        raise refused
    return f"hold of {len(reached)}"


def _trace(process: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(_PTRACE_ATTACH, process, None, None) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")


_ON_PROCESSES: Mapping[str, Callable[[int], object]] = {
    "environment": lambda process: Path(f"/proc/{process}/environ").read_bytes(),
    "memory": lambda process: Path(f"/proc/{process}/mem").open("rb").close(),
    "signal": lambda process: os.kill(process, 0),
    "trace": _trace,
}


def _start(program: str) -> str:
    return f"exit code {os.posix_spawn(program, [program], {})}"


def _tell(found: Mapping[str, str]) -> None:
    for what, result in found.items():
        os.write(2, f"{TOLD}{json.dumps([what, result])}\n".encode())
