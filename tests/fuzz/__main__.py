"""``python -m tests.fuzz``: fuzzes the parsers of foreign bytes, or replays a finding.

python -m tests.fuzz consent --seconds 600   fuzz one target
python -m tests.fuzz all --seconds 600       every target, one after the other
python -m tests.fuzz consent FILE            give it the content of a file once
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.fuzz.campaign import fuzz_here, run_campaign


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", help="a target's name, or all")
    parser.add_argument("file", nargs="?", type=Path, help="an input to replay")
    parser.add_argument("--seconds", type=int, default=600, help="for how long, each target")
    parser.add_argument("--findings", type=Path, default=Path("runs/fuzz"), help="where they go")
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here is not None:
        fuzz_here(options.target, options.here, seconds=options.seconds)
        return 0  # Not reached: the fuzzer ends the process.

    from tests.fuzz.catalogue import all_targets, find_target
    from tests.fuzz.target import attempt

    names = [target.name for target in all_targets()] if options.target == "all" else []
    try:
        names = names or [find_target(options.target).name]
    except KeyError:
        known = " ".join(target.name for target in all_targets())
        parser.error(f"the targets are: all {known}")
    if options.file is not None:
        accepted = attempt(find_target(options.target), options.file.read_bytes())
        sys.stdout.write("accepted\n" if accepted else "refused\n")
        return 0
    failed = [
        name
        for name in names
        if not run_campaign(name, seconds=options.seconds, findings=options.findings)
    ]
    sys.stdout.write(f"{len(names)} targets fuzzed, findings in: {' '.join(failed) or 'none'}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
