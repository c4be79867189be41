"""A Python that every user may run, with this environment's packages and commands.

A deployment's processes have users of their own, who cannot run an interpreter in somebody's home.
Where this one is out of their reach, a small virtual environment is made of another interpreter of
the same version, such as Debian's, that finds the packages of this one.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import sysconfig
from pathlib import Path

_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
_COMMANDS = ("fedpref-*", "flower-*", "flwr*", "supervisor*")


def shared_scripts(folder: Path) -> Path:
    """The folder of commands to put first on the PATH of whoever starts other users' processes.

    Args:
        folder: Where an environment is made if one is needed; every user must be able to get there.

    Raises:
        AssertionError: No interpreter of this version is within other users' reach.
    """
    own = Path(sys.executable)
    if _reachable(own) and _reachable(Path(os.__file__)):
        return own.parent
    made = folder / "venv"
    if not made.exists():
        _make(made)
    return made / "bin"


def _make(made: Path) -> None:
    interpreter = _another()
    subprocess.run([interpreter, "-m", "venv", "--without-pip", made], check=True)
    packages = Path(sysconfig.get_path("purelib"))
    # A line that begins with an import is executed; it reads the .pth files over there as well.
    line = f"import site; site.addsitedir({str(packages)!r})\n"
    (made / "lib" / f"python{_VERSION}" / "site-packages" / "shared.pth").write_text(line)
    own, ours = str(Path(sys.executable).parent), str(made / "bin")
    for pattern in _COMMANDS:
        for path in Path(own).glob(pattern):
            target = made / "bin" / path.name
            target.write_text(path.read_text().replace(f"#!{own}/", f"#!{ours}/", 1))
            target.chmod(0o755)
    made.chmod(0o755)


def _another() -> Path:
    for name in (f"/usr/bin/python{_VERSION}", f"/usr/local/bin/python{_VERSION}"):
        if Path(name).exists() and _reachable(Path(name)):
            return Path(name)
    found = shutil.which(f"python{_VERSION}", path="/opt/python/bin:/opt/bin")
    assert found, (
        f"{os.path.realpath(sys.executable)} is out of other users' reach, and there is no other "
        f"Python {_VERSION}: install Debian's python3, or use an environment under /opt"
    )
    return Path(found)


def _reachable(path: Path) -> bool:
    """Whether every user can get to a file, through every link on the way."""
    for each in {path, Path(os.path.realpath(path))}:
        if not all(folder.stat().st_mode & stat.S_IXOTH for folder in each.absolute().parents):
            return False
    return bool(path.stat().st_mode & stat.S_IROTH)
