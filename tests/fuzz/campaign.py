"""Coverage-guided fuzzing of one target by atheris, in a process of its own with little memory.

The corpus is made from the target's seeds at each start, in a temporary folder. An input that is a
finding is written to a file, which ``python -m tests.fuzz TARGET FILE`` replays.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.mutation import mutate
from tests.fuzz.target import memory_folder

#: What the process may have: resident memory, and address space (libraries take much of it).
MAX_RSS_MB = 1024
MAX_ADDRESS_BYTES = 6 << 30
#: The longest that one input may take, in seconds; a busy machine is slow.
INPUT_TIMEOUT_S = 20
#: More than any target takes to start.
_START_S = 300
_GUIDED = ("common", "client")


def run_campaign(name: str, *, seconds: int, findings: Path) -> bool:
    """Fuzzes a target in a child process, and says on the standard output how it went.

    Args:
        name: The target.
        seconds: For how long.
        findings: The folder for inputs that are findings.

    Returns:
        Whether nothing was found.
    """
    findings.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory_folder()) as folder:
        work = Path(folder)
        command = [sys.executable, "-m", "tests.fuzz", name, "--here", folder]
        command += ["--seconds", str(seconds)]
        with (work / "log").open("wb") as log:
            child = subprocess.run(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=seconds + _START_S,
                # The fuzzer ends its process at once: what it left goes with the folder.
                env={**os.environ, "TMPDIR": folder},
                check=False,
            )
        lines = (work / "log").read_text("utf-8", "replace").splitlines()
        found = sorted((work / "found").iterdir())
        for path in found:
            kept = findings / f"{name}-{path.name}"
            shutil.copyfile(path, kept)
            sys.stdout.write(f"{name}: replay with: python -m tests.fuzz {name} {kept}\n")
        clean = child.returncode == 0 and not found
        if not clean:
            sys.stdout.write("\n".join(lines[-60:]) + "\n")
        runs = next((line for line in reversed(lines) if line.startswith("Done ")), "stopped early")
        sys.stdout.write(f"{name}: {'nothing found' if clean else 'FOUND'}: {runs}\n")
        sys.stdout.flush()
    return clean


def fuzz_here(name: str, work: Path, *, seconds: int) -> None:
    """Fuzzes in this process until the time is over or something is found; does not return."""
    import atheris

    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_BYTES, MAX_ADDRESS_BYTES))
    with atheris.instrument_imports(include=[*_GUIDED]):
        from tests.fuzz.catalogue import find_target
        from tests.fuzz.target import attempt

        target = find_target(name)
    corpus, found = work / "corpus", work / "found"
    corpus.mkdir()
    found.mkdir()
    seeds = list(target.seeds())
    for number, seed in enumerate(seeds):
        (corpus / str(number)).write_bytes(seed)

    def check(data: bytes) -> None:
        attempt(target, data)

    def change(data: bytes, max_size: int, seed: int) -> bytes:
        generator = random.Random(seed)
        if generator.random() < 0.4:
            return bytes(atheris.Mutate(data, max_size))
        return mutate(data, generator, seeds, target.head_bytes)[:max_size]

    arguments = [
        sys.argv[0],
        f"-max_total_time={seconds}",
        f"-max_len={target.max_bytes}",
        f"-timeout={INPUT_TIMEOUT_S}",
        f"-rss_limit_mb={MAX_RSS_MB}",
        f"-artifact_prefix={found}/",
        "-print_final_stats=1",
        str(corpus),
    ]
    atheris.Setup(arguments, check, custom_mutator=change)
    atheris.Fuzz()
