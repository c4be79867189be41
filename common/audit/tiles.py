"""C2SP tlog-tiles: a log's hashes in tiles 256 wide, its entries in bundles of 256.

The n-th tile of level l holds the hashes of the subtrees of 256^l leaves that begin at n · 256
such subtrees. A tile that is not full is partial; it stands on the right edge of its level and is
not hashed into the level above.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import overload

from common.audit.merkle import HASH_BYTES, node_hash, range_root
from common.errors import FormatError, InputError, StorageError

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
FULL_TILE_BYTES = TILE_WIDTH * HASH_BYTES

_LENGTH_BYTES = 2
_MAX_ENTRY_BYTES = (1 << 8 * _LENGTH_BYTES) - 1


def entries_path(number: int, width: int = TILE_WIDTH) -> str:
    """The path of an entry bundle, such as ``tile/entries/x001/x234/067.p/8``.

    Args:
        number: The bundle's index.
        width: How many entries it has; below 256 it is partial.

    Raises:
        InputError: If there is no such bundle.
    """
    return f"tile/entries/{_index_path(number, width)}"


def tile_path(level: int, number: int, width: int = TILE_WIDTH) -> str:
    """The path of a hash tile, such as ``tile/0/x001/067``."""
    if not 0 <= level <= 63:
        raise InputError(f"A tile has a level from 0 to 63, not {level}.")
    return f"tile/{level}/{_index_path(number, width)}"


def _index_path(number: int, width: int) -> str:
    if number < 0 or not 1 <= width <= TILE_WIDTH:
        raise InputError(f"There is no tile {number} of width {width}.")
    digits = f"{number:d}"
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    parts = [digits[start : start + 3] for start in range(0, len(digits), 3)]
    path = "/".join([f"x{part}" for part in parts[:-1]] + parts[-1:])
    return path if width == TILE_WIDTH else f"{path}.p/{width}"


def encode_bundle(entries: Iterable[bytes]) -> bytes:
    """Joins entries into a bundle: each with its length before it, two bytes big-endian.

    Raises:
        InputError: If an entry is longer than 65,535 bytes.
    """
    parts: list[bytes] = []
    for entry in entries:
        if len(entry) > _MAX_ENTRY_BYTES:
            raise InputError(f"An entry of {len(entry)} bytes does not fit a bundle.")
        parts += (len(entry).to_bytes(_LENGTH_BYTES, "big"), entry)
    return b"".join(parts)


def decode_bundle(data: bytes, width: int) -> list[bytes]:
    """Splits a bundle into its entries.

    Args:
        data: The bundle.
        width: How many entries it must have.

    Raises:
        FormatError: If it is not exactly that many whole entries.
    """
    entries: list[bytes] = []
    offset = 0
    while offset < len(data):
        start = offset + _LENGTH_BYTES
        stop = start + int.from_bytes(data[offset:start], "big")
        if len(data) < start or len(data) < stop:
            raise FormatError(f"The entry bundle ends within its entry {len(entries)}.")
        entries.append(data[start:stop])
        offset = stop
    if len(entries) != width:
        raise FormatError(f"The entry bundle has {len(entries)} entries instead of {width}.")
    return entries


class PackedHashes(Sequence[bytes]):
    """Hashes in one piece of memory: a quarter of what a list of them takes.

    Args:
        hashes: What to pack, 32 bytes each.
    """

    __slots__ = ("_data",)

    def __init__(self, hashes: Iterable[bytes]) -> None:
        self._data = b"".join(hashes)

    def __len__(self) -> int:
        return len(self._data) // HASH_BYTES

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        """A hash, or the hashes of a range; negative indices are not needed here."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        start = index * HASH_BYTES
        if not 0 <= start < len(self._data):
            raise IndexError(index)
        return self._data[start : start + HASH_BYTES]


class FullTile:
    """A full tile as it is kept for reading; ``rows`` as in `Tile`."""

    __slots__ = ("rows",)

    def __init__(self, tile: Tile) -> None:
        self.rows: Sequence[Sequence[bytes]] = [PackedHashes(row) for row in tile.rows]


class Tile:
    """The hashes of one tile, and of the complete subtrees within it."""

    __slots__ = ("rows",)

    def __init__(self, rows: list[list[bytes]]) -> None:
        # rows[h][i] is the hash of the i-th complete subtree of 2^h of the tile's hashes.
        self.rows = rows

    @classmethod
    def decode(cls, data: bytes) -> Tile:
        """Reads the stored form: the hashes one after another.

        Raises:
            FormatError: If it is not 1 to 256 hashes.
        """
        if not data or len(data) % HASH_BYTES or len(data) > FULL_TILE_BYTES:
            raise FormatError(f"A tile of {len(data)} bytes is not 1 to {TILE_WIDTH} hashes.")
        row = [data[start : start + HASH_BYTES] for start in range(0, len(data), HASH_BYTES)]
        rows = [row]
        for _ in range(TILE_HEIGHT):
            pairs = zip(row[::2], row[1::2], strict=False)
            row = [node_hash(left, right) for left, right in pairs]
            rows.append(row)
        return cls(rows)

    @classmethod
    def empty(cls) -> Tile:
        """A tile without hashes yet."""
        return cls([[] for _ in range(TILE_HEIGHT + 1)])

    def encode(self) -> bytes:
        """The stored form: the hashes one after another."""
        return b"".join(self.rows[0])

    @property
    def width(self) -> int:
        """How many hashes it has."""
        return len(self.rows[0])

    @property
    def root(self) -> bytes | None:
        """The hash of the whole tile; None while it is partial."""
        return self.rows[TILE_HEIGHT][0] if self.rows[TILE_HEIGHT] else None

    def append(self, value: bytes) -> None:
        """Adds the next hash, and the hashes of the subtrees it completes."""
        for row in self.rows:
            row.append(value)
            if len(row) & 1:
                return
            value = node_hash(row[-2], row[-1])

    def copy(self) -> Tile:
        """A tile that can grow without changing this one."""
        return Tile([row.copy() for row in self.rows])


class TileEdge:
    """The right edge of a tiled tree: its partial tiles, one a level, which may be empty.

    Args:
        size: Leaves in the tree.
        partial: The partial tiles, from level 0 upwards, as many as the size asks for.
    """

    def __init__(self, size: int, partial: Sequence[Tile]) -> None:
        self.size = size
        self.partial = list(partial)
        #: Tiles that became full since the last ``copy``, by (level, number).
        self.completed: dict[tuple[int, int], Tile] = {}

    def copy(self) -> TileEdge:
        """An edge that can grow without changing this one."""
        return TileEdge(self.size, [tile.copy() for tile in self.partial])

    def append(self, leaf: bytes) -> None:
        """Adds the next leaf hash."""
        value: bytes | None = leaf
        self.size += 1
        level = 0
        while value is not None:
            if level == len(self.partial):
                self.partial.append(Tile.empty())
            tile = self.partial[level]
            tile.append(value)
            value = tile.root
            if value is not None:
                number = (self.size >> TILE_HEIGHT * (level + 1)) - 1
                self.completed[level, number] = tile
                self.partial[level] = Tile.empty()
            level += 1

    def partial_number(self, level: int) -> int:
        """The number of a level's partial tile."""
        return self.size >> TILE_HEIGHT * (level + 1)


def partial_widths(size: int) -> list[int]:
    """The widths of the partial tiles of a tree, from level 0 up to the last level with a hash."""
    widths: list[int] = []
    while size:
        widths.append(size % TILE_WIDTH)
        size >>= TILE_HEIGHT
    return widths


class TiledTree:
    """Reads hashes of any complete subtree from tiles; full tiles are checked against their parent.

    The root of the edge is checked by whoever opens the log, against its signed checkpoint; every
    full tile that is read later must hash to its place in the tile above, up to that edge. So a
    damaged tile is found when it is read, and no proof is made from it.

    Args:
        edge: The right edge, kept current by the log.
        load: Gives the stored bytes of a full tile.
        damaged: Makes the error that says what of the store is damaged.
    """

    # Every leaf tile of a million entries, in some 70 MB once proofs were asked of all of them.
    _CACHED_TILES = 4096

    def __init__(
        self,
        edge: TileEdge,
        load: Callable[[int, int], bytes],
        damaged: Callable[[str], StorageError],
    ) -> None:
        self.edge = edge
        self._load = load
        self._damaged = damaged
        self._cache: dict[tuple[int, int], FullTile] = {}

    def extended(self, edge: TileEdge) -> TiledTree:
        """The tree with a later edge; what was read already stays valid in it."""
        tree = TiledTree(edge, self._load, self._damaged)
        tree._cache = self._cache
        return tree

    def subtree(self, level: int, index: int) -> bytes:
        """The hash of the complete subtree over leaves [index << level, (index + 1) << level)."""
        tile_level, height = divmod(level, TILE_HEIGHT)
        number, place = divmod(index, TILE_WIDTH >> height)
        return self.tile(tile_level, number).rows[height][place]

    def root(self, size: int) -> bytes:
        """The root of the tree of the first ``size`` leaves, at most the edge's size."""
        return range_root(self.subtree, 0, size)

    def tile(self, level: int, number: int) -> Tile | FullTile:
        """A tile, full or partial.

        Raises:
            StorageError: If its stored bytes do not hash to what the tile above says.
        """
        if number == self.edge.partial_number(level):
            return self.edge.partial[level]
        tile = self._cache.get((level, number))
        if tile is None:
            tile = self._checked(level, number)
            if len(self._cache) >= self._CACHED_TILES:
                del self._cache[next(iter(self._cache))]
            self._cache[level, number] = tile
        return tile

    def _checked(self, level: int, number: int) -> FullTile:
        try:
            tile = Tile.decode(self._load(level, number))
        except FormatError as error:
            raise self._damaged(f"hash tile {number} of level {level}: {error.message}") from error
        above, place = divmod(number, TILE_WIDTH)
        if tile.root is None or tile.root != self.tile(level + 1, above).rows[0][place]:
            raise self._damaged(
                f"hash tile {number} of level {level} does not hash to its place in the tile above"
            )
        return FullTile(tile)
