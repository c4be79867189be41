"""A file of environment variables as systemd takes it, one ``NAME=value`` a line."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from common.errors import InputError

_LINE = re.compile(r"(?P<name>[A-Z][A-Z0-9_]*)=(?P<value>[^\"'\\\x00-\x1f]*)")
_MAX_BYTES = 64 << 10


def read_environment(path: Path) -> dict[str, str]:
    """Reads a file of variables; without the file there are none.

    Args:
        path: Blank lines and those that begin with ``#`` say nothing. Values are taken as they
            stand: there are no quotes, no escapes and no continuation.

    Raises:
        InputError: The file can be read by others, or a line is none; says which, not what it says.
    """
    try:
        mode = path.stat().st_mode
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"The variables in {path} cannot be read: {error.strerror}.") from error
    if stat.S_IMODE(mode) & 0o077:
        raise InputError(
            f"The variables in {path} can be read by others (mode {stat.S_IMODE(mode):04o}).",
            remedy=f"They may be secrets: chmod 0600 {path}.",
        )
    if len(data) > _MAX_BYTES:
        raise InputError(f"The variables in {path} have more than {_MAX_BYTES} bytes.")
    variables: dict[str, str] = {}
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise InputError(
                f"{path}, line {number}, is not NAME=value without quotes.",
                remedy="Correct the line.",
            )
        variables[found["name"]] = found["value"]
    return variables
