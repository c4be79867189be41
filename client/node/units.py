"""A region's systemd units: the same three programs that `fedpref-region start` supervises."""

from __future__ import annotations

from pathlib import Path

from client.node.programs import ENGINE_ENVIRONMENT, region_programs
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
}


def region_units(settings: RegionSettings) -> dict[str, str]:
    """The unit files of a region, by name; to be made by root, whom the users are known to.

    Args:
        settings: The region's settings.

    Raises:
        InputError: The users are not as they must be, or something cannot be written in a unit.
    """
    region = settings.region.name
    # The engine's own variables stay in their file: systemd reads it, and a unit is no secret.
    programs = region_programs(settings, with_engine_environment=False)
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
    if name == "engine":
        return Hardening(
            writable=(private["home"], folder / "run"),
            hidden=(private["node"], private["relay"], private["supervisor"]),
            # A database may be elsewhere, files are not.
            loopback_only=dict(settings.source_table).get("kind") == "files",
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


def _environment_file(settings: RegionSettings, name: str) -> Path | None:
    return settings.folder / ENGINE_ENVIRONMENT if name == "engine" else None
