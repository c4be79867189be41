"""How sensitive each column is, and what follows from it.

| grade | at rest | the region's own programs | people |
|---|---|---|---|
| low | as it is | read it | read it |
| medium | encrypted | read it | with a grant |
| high | encrypted | with a grant | with a grant |

A grant is asked for by one person and approved by another (`client.governance.grants`). Grades are
stated in the region's data standards (`client.data.standards`), column by column; a column that
they do not name counts as high: what nobody has thought about is not shown to everybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import get_args

from client.data.standards import Grade, Standards
from common.errors import FormatError

GRADES: tuple[Grade, ...] = get_args(Grade)
#: Of a column that the standards do not name.
UNSTATED: Grade = "high"
#: What the region's own programs read without a grant.
FOR_PROGRAMS: frozenset[Grade] = frozenset({"low", "medium"})
#: What people read without one.
FOR_PEOPLE: frozenset[Grade] = frozenset({"low"})
#: What lies on the disk as it is.
IN_CLEAR: frozenset[Grade] = frozenset({"low"})


def grades_of(standards: Standards, table: str, columns: Iterable[str]) -> dict[str, Grade]:
    """The grade of each column of a table.

    Args:
        standards: The region's data standards.
        table: The table's canonical name; one that they do not have is high throughout.
        columns: The columns that the table has.
    """
    known = standards.tables.get(table)
    stated = {} if known is None else {name: c.grade for name, c in known.columns.items()}
    return graded(columns, stated)


def graded(columns: Iterable[str], stated: Mapping[str, Grade]) -> dict[str, Grade]:
    """The grade of each column by a map of grades.

    Args:
        columns: The columns that there are.
        stated: The grades of columns; others count as high.
    """
    return {name: stated.get(name, UNSTATED) for name in columns}


def parse_grade(value: object) -> Grade:
    """Reads a grade.

    Raises:
        FormatError: It is none.
    """
    for grade in GRADES:
        if value == grade:
            return grade
    raise FormatError(f"A column's grade is none of {', '.join(GRADES)}.")
