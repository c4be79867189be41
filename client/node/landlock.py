"""Which files and ports code of a bundle may use: Landlock (landlock(7)), where the kernel has it.

Nothing may be written, and only what Python and the bundle themselves consist of may be read; no
TCP port may be reached or bound; no process outside may be signalled. Users and file modes keep the
region's data away from the relay all the same: this is a second wall, of finer stone.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence
from pathlib import Path

from common.process_control import renounce_privileges

# linux/landlock.h; the numbers of its calls are the same on every machine.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_RULE_PATH_BENEATH = 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_WRITE_FILE = 1 << 1
#: By version of the interface: how many kinds of access to files it knows, from bit 0 on.
_FILE_ACCESS_BITS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_FIRST_WITH_TCP, _BIND_AND_CONNECT = 4, 0b11
_FIRST_WITH_SCOPES, _ABSTRACT_SOCKETS_AND_SIGNALS = 6, 0b11
_RULESET = struct.Struct("=QQQ")
_PATH_RULE = struct.Struct("=Qi")


def landlock_version() -> int:
    """The version of the kernel's Landlock; 0 if it has none."""
    try:
        return _call(_CREATE_RULESET, None, 0, _VERSION_FLAG)
    except OSError:
        return 0


def restrict_files(readable: Sequence[Path], writable_devices: Sequence[Path] = ()) -> None:
    """Confines this thread, and all it starts, to reading some paths; cannot be taken off again.

    Args:
        readable: Folders and files; those that do not exist are passed over.
        writable_devices: Such as ``/dev/null``: may be read and written.

    Raises:
        OSError: The kernel has no Landlock, or refuses.
    """
    version = landlock_version()
    files = (1 << _FILE_ACCESS_BITS.get(version, 16)) - 1
    ports = _BIND_AND_CONNECT if version >= _FIRST_WITH_TCP else 0
    scopes = _ABSTRACT_SOCKETS_AND_SIGNALS if version >= _FIRST_WITH_SCOPES else 0
    known_bytes = 24 if scopes else 16 if ports else 8
    ruleset = _call(
        _CREATE_RULESET, _RULESET.pack(files, ports, scopes)[:known_bytes], known_bytes, 0
    )
    try:
        for path in readable:
            _allow(ruleset, path, _READ_FILE | _READ_DIR)
        for path in writable_devices:
            _allow(ruleset, path, _READ_FILE | _WRITE_FILE)
        renounce_privileges()
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        # A rule for a file may not speak of folders.
        access &= ~_READ_DIR if not path.is_dir() else -1
        _call(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, _PATH_RULE.pack(access, descriptor), 0)
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: int | bytes | None) -> int:
    library = ctypes.CDLL(None, use_errno=True)
    words = [
        ctypes.c_char_p(word) if isinstance(word, bytes) else ctypes.c_void_p(word)
        for word in arguments
    ]
    library.syscall.restype = ctypes.c_long
    result = library.syscall(ctypes.c_long(number), *words)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)
