"""The region's store and catalogue: readable, and of the shape that the mapping expects."""

from __future__ import annotations

from collections.abc import Sequence

from client.data.sources import open_source
from client.data.standards import standards_file, standards_of
from client.data.tables.declaration import declaration_file, declared_tables
from client.data.tables.reading import RegionTables
from client.engine.home import RegionHome
from client.engine.permit_files import PermitFile
from client.inspection.findings import Findings, Kind
from client.inspection.subject import Inspected
from client.settings import declared_source
from common.catalogue import Catalogue
from common.errors import PolicyError


def check_store(subject: Inspected, home: RegionHome, findings: Findings) -> None:
    """Checks that the store answers and has the mapped columns, of fitting types; reads no row."""
    settings = subject.settings
    place = home.source if settings is None else subject.setting("[source]")
    with findings.catching(Kind.STORE, place):
        open_source(declared_source(home) if settings is None else settings.source()).check()


def check_tables(home: RegionHome, findings: Findings) -> None:
    """Checks the data standards, and that further tables answer and have what is mapped.

    Reads no row.
    """
    with findings.catching(Kind.STORE, standards_file(home)):
        standards_of(home)
    with findings.catching(Kind.STORE, declaration_file(home)):
        RegionTables(declared_tables(home)).check()


def check_catalogue(home: RegionHome, permits: Sequence[PermitFile], findings: Findings) -> None:
    """Checks the public catalogue, and that permitted runs are over it."""
    with findings.catching(Kind.STORE, home.catalogue):
        catalogue = Catalogue.load(home.catalogue)
        for permit in permits:
            if permit.plan().catalogue != catalogue.digest:
                findings.add(
                    Kind.STORE,
                    home.catalogue,
                    f"Run {permit.run} is over another catalogue than this one "
                    f"({catalogue.digest[:16]}…).",
                    "Copy the catalogue.parquet of the federation there.",
                    exit_code=PolicyError.exit_code,
                )
