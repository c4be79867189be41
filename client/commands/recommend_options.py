"""What several commands of ``fedpref-region recommend`` ask for, and what they make of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.errors import InputError

if TYPE_CHECKING:
    from client.recommend.recommender import Recommender
    from client.recommend.types import Scene

HomeArgument = Annotated[Path, typer.Argument(help="The region's home folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
Daypart = Annotated[str | None, typer.Option(help="The scene's time of day, as settings name it.")]
Weekday = Annotated[
    int | None, typer.Option(min=0, max=6, help="The scene's day: 0 for Monday to 6 for Sunday.")
]
StoreType = Annotated[str | None, typer.Option(help="The scene's kind of store.")]
InStock = Annotated[
    Path | None, typer.Option(help="A file of the items that can be had, one a line.")
]
Exclude = Annotated[
    list[str] | None, typer.Option(help="An item not to show; may be given more than once.")
]
NewOnly = Annotated[
    bool, typer.Option("--new-only", help="Leave out what the customer has bought before.")
]

#: The longest file of items in stock.
MAX_STOCK_BYTES = 1 << 28


def open_recommender(home: Path) -> Recommender:
    """Opens the recommender of a region as its settings say; to be closed by the caller."""
    from client.engine.home import RegionHome
    from client.recommend.recommender import Recommender
    from client.recommend.settings import RecommendSettings

    region = RegionHome.read(home)
    return Recommender.open(region, RecommendSettings.read(region))


def scene_of(daypart: str | None, weekday: int | None, store_type: str | None) -> Scene | None:
    """The scene of a command's options; None if they name none."""
    from client.recommend.types import Scene

    if daypart is None and weekday is None and store_type is None:
        return None
    return Scene(daypart, weekday, store_type)


def stock_of(path: Path | None) -> frozenset[str] | None:
    """The items that a file lists, one a line; None without a file.

    Raises:
        InputError: It cannot be read, is too long, or is no text.
    """
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            data = file.read(MAX_STOCK_BYTES + 1)
        lines = data.decode("utf-8").splitlines()
    except OSError as error:
        raise InputError(f"The stock list {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"The stock list {path} is not text (UTF-8).") from error
    if len(data) > MAX_STOCK_BYTES:
        raise InputError(f"The stock list {path} is over {MAX_STOCK_BYTES} bytes.")
    return frozenset(line.strip() for line in lines if line.strip())
