"""The settings of profiles: ``profiles/settings.toml`` of a region's home; all have defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.engine.home import RegionHome
from common.errors import InputError
from common.toml_file import read_toml

FOLDER_NAME, FILE_NAME = "profiles", "settings.toml"
MAX_SETTINGS_BYTES = 1 << 20


class ProfileSettings(BaseModel):
    """What profiles are made with, besides the tag library.

    Attributes:
        cart_left_after_h: After how many hours without a purchase a cart counts as left.
        groups: How many groups of customers are looked for.
        build_every_days: After how many days all is read anew at the latest: only then rows that
            were altered or deleted at their source are noticed, and new customers' history is read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cart_left_after_h: Annotated[int, Field(ge=1, le=24 * 31)] = 24
    groups: Annotated[int, Field(ge=2, le=32)] = 6
    build_every_days: Annotated[int, Field(ge=1, le=366)] = 1

    @classmethod
    def read(cls, home: RegionHome) -> ProfileSettings:
        """Reads a home's settings; without the file, the defaults.

        Raises:
            InputError: The file is malformed: names the file and the field.
        """
        path = profiles_folder(home) / FILE_NAME
        if not path.exists():
            return cls()
        values = read_toml(
            path,
            "The settings",
            max_bytes=MAX_SETTINGS_BYTES,
            remedy="Correct the file, or remove it for the defaults.",
        )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "(whole file)"
            raise InputError(
                f"The settings {path}: {where}: {first['msg']}.",
                remedy="Correct the field; unknown fields are refused.",
            ) from error


def profiles_folder(home: RegionHome) -> Path:
    """Where a home's settings of profiles, its tag library and its profiles lie."""
    return home.root / FOLDER_NAME
