"""The recommender service's own settings, and the token that its callers must have.

The settings are ``recommend/service.toml`` of a region's home; all of them have defaults. What is
recommended, and how, is in ``client.recommend.settings``.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.engine.home import RegionHome
from client.recommend.settings import recommend_folder
from common.durable_file import make_folder_durably
from common.errors import InputError, StorageError
from common.key_files import create_whole, read_private
from common.toml_file import read_toml

FILE_NAME = "service.toml"
TOKEN_NAME = "token"  # noqa: S105 - a file's name
MAX_SETTINGS_BYTES = 1 << 16

_TOKEN_BYTES = 32
_MIN_TOKEN_CHARACTERS = 16

Seconds = Annotated[int, Field(ge=1, le=24 * 3600)]


class ServiceSettings(BaseModel):
    """How the service is reached, and how much one request may be.

    Attributes:
        hosts: Further names, with ports, by which a proxy asks for the service: what the ``Host``
            header may be beside the address that the service listens on.
        max_body_bytes: The largest request; lists of what is in stock are long.
        max_connections: How many connections may be open at once; further ones are answered 503.
        refresh_every_s: After how many seconds store and model are read anew; 0 for never. Consents
            are looked at with every request.
        session_s: How long the operator stays signed in to the try page, in seconds.
        idle_s: How long without a request, in seconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    hosts: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9.\-\[\]:]{1,255}$")]] = []
    max_body_bytes: Annotated[int, Field(ge=16_384, le=1 << 26)] = 4 << 20
    max_connections: Annotated[int, Field(ge=2, le=10_000)] = 256
    refresh_every_s: Annotated[int, Field(ge=0, le=7 * 86_400)] = 3600
    session_s: Seconds = 8 * 3600
    idle_s: Seconds = 3600


def read_service_settings(home: RegionHome) -> ServiceSettings:
    """Reads ``recommend/service.toml`` of a region's home; the defaults if it has none.

    Raises:
        InputError: The file is unreadable, too long, not TOML, or has a wrong setting.
    """
    path = recommend_folder(home) / FILE_NAME
    if not path.exists():
        return ServiceSettings()
    values = read_toml(
        path,
        "The recommender service's settings",
        max_bytes=MAX_SETTINGS_BYTES,
        remedy="Give the region's user the right to read them, or remove the file.",
    )
    try:
        return ServiceSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"{path}: {where}: {first['msg']}.") from error


def token_file(home: RegionHome) -> Path:
    """Where the token is: whoever has it may ask for any customer of the region."""
    return recommend_folder(home) / TOKEN_NAME


def access_token(home: RegionHome) -> str:
    """The token that callers must send; made the first time, for its owner alone.

    Raises:
        InputError: The file is readable by others, or holds no token.
        StorageError: It cannot be written.
    """
    path = token_file(home)
    try:
        make_folder_durably(path.parent)
        with suppress(FileExistsError):
            # Made before, or by another process a moment ago.
            create_whole(path, f"{secrets.token_urlsafe(_TOKEN_BYTES)}\n".encode())
    except OSError as error:
        raise StorageError(f"The token {path} cannot be written: {error.strerror}.") from error
    token = read_private(path, "recommender's token").decode("ascii", "replace").strip()
    if len(token) < _MIN_TOKEN_CHARACTERS or not token.isprintable() or " " in token:
        raise InputError(
            f"The recommender's token in {path} is no token.",
            remedy="Remove the file; a new one is made when the service starts.",
        )
    return token
