"""Prints the gates beside the planted faults; ends with 1 if a gate is not as it should be."""

from __future__ import annotations

import sys

from client.training.audit_gates.table import as_text, gate_table


def main() -> int:
    """Prints the table of the models named on the command line, or of all."""
    rows = gate_table(sys.argv[1:])
    if not rows:
        sys.stderr.write("There is no model of such a name.\n")
        return 2
    sys.stdout.write(as_text(rows) + "\n")
    return 0 if all(row.as_it_should_be for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
