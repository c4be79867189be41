"""A region's systemd units: the same programs that `fedpref-region start` supervises."""

from __future__ import annotations

from pathlib import Path

from client.engine.home import KEY_ROLES
from client.node.programs import ENVIRONMENTS, PROFILES, RECOMMENDER, region_programs
from client.settings import RegionSettings
from common.systemd import Hardening, render_unit

# Landlock's calls and seccomp's: the relay confines its children further.
_CONFINING_CALLS = (
    "landlock_create_ruleset",
    "landlock_add_rule",
    "landlock_restrict_self",
    "seccomp",
)
_NODE_MEMORY_BYTES = 2 << 30
#: A bundle's own limit, and the relay beside it with a message's arrays.
_RELAY_MEMORY_BYTES = 5 << 30
_SPOKEN = {
    "engine": "the privacy engine",
    "node": "the SuperNode",
    "relay": "the relay",
    RECOMMENDER: "the recommender",
    PROFILES: "the profiles",
}


def region_units(settings: RegionSettings) -> dict[str, str]:
    """The unit files of a region, by name; to be made by root, whom the users are known to.

    Args:
        settings: The region's settings.

    Raises:
        InputError: The users are not as they must be, or something cannot be written in a unit.
    """
    region = settings.region.name
    # A program's own variables stay in their file: systemd reads it, and a unit is no secret.
    programs = region_programs(settings, with_own_variables=False)
    names = {each.name: f"fedpref-{region}-{each.name}.service" for each in programs}
    after = {"relay": (names["engine"], names["node"])}
    return {
        names[program.name]: render_unit(
            program,
            description=f"fedpref: {_SPOKEN[program.name]} of {region}",
            hardening=_hardening(settings, program.name),
            after=after.get(program.name, ()),
            environment_file=_environment_file(settings, program.name),
        )
        for program in programs
    }


def _hardening(settings: RegionSettings, name: str) -> Hardening:
    folder = settings.folder
    private = {each: folder / each for each in ("home", "node", "relay", "supervisor")}
    if name in ("engine", RECOMMENDER, PROFILES):
        # What signs and what is spent is the engine's alone.
        signing = () if name == "engine" else _signing(settings)
        return Hardening(
            writable=(private["home"], folder / "run"),
            hidden=(private["node"], private["relay"], private["supervisor"], *signing),
            # A database may be elsewhere, files are not.
            loopback_only=_reads_files_only(settings),
        )
    if name == "node":
        return Hardening(
            writable=(private["node"],),
            hidden=(private["home"], private["relay"], private["supervisor"]),
            memory_max_bytes=_NODE_MEMORY_BYTES,
        )
    return Hardening(
        writable=(private["relay"],),
        hidden=(private["home"], private["node"], private["supervisor"]),
        loopback_only=True,
        memory_max_bytes=_RELAY_MEMORY_BYTES,
        extra_calls=_CONFINING_CALLS,
    )


def _reads_files_only(settings: RegionSettings) -> bool:
    """Whether neither the store nor a further table is in a database."""
    from client.data.tables.declaration import SqlTable, declared_tables

    places = [each for table in declared_tables(settings.home).values() for each in table]
    in_files = dict(settings.source_table).get("kind") == "files"
    return in_files and not any(isinstance(each, SqlTable) for each in places)


def _signing(settings: RegionSettings) -> tuple[Path, ...]:
    """The region's private keys, what opens them, and its ledger."""
    home = settings.home
    store = home.key_store
    return (
        *(store.key_file(role) for role in KEY_ROLES),
        store.signers,
        store.passphrase_path,
        store.passphrase_command,
        store.next_passphrase_path,
        home.ledger,
    )


def _environment_file(settings: RegionSettings, name: str) -> Path | None:
    file = ENVIRONMENTS.get(name)
    return None if file is None else settings.folder / file
