"""A quality report of a region's store, in a process of its own; prints what it took as JSON."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from client.engine.home import RegionHome
from client.governance.quality_run import make_report


def main() -> None:
    """Makes the report of the home that is named."""
    home = RegionHome.read(Path(sys.argv[1]))
    started_s, cpu_s = time.perf_counter(), time.process_time()
    report = make_report(home)
    purchases = report.tables[0]
    measured = {
        "rows": purchases.read,
        "accepted": purchases.accepted,
        "report_s": time.perf_counter() - started_s,
        "cpu_s": time.process_time() - cpu_s,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    sys.stdout.write(json.dumps(measured))


if __name__ == "__main__":
    main()
