"""What opening an audit log checks: that its entries, tiles and checkpoint tell one story.

This is the path of every opening, after a crash or not. A batch and its checkpoint are committed
together, so what is found unfinished was not left by a crash of ours; it is finished and reported.
What contradicts a signed checkpoint is never repaired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.audit.checkpoint import Checkpoint, NoteKey, open_checkpoint, parse_note
from common.audit.log_store import LogStore, StoredCheckpoint
from common.audit.merkle import leaf_hash
from common.audit.tiles import (
    TILE_HEIGHT,
    TILE_WIDTH,
    Tile,
    TiledTree,
    TileEdge,
    partial_widths,
)
from common.errors import FedprefError, FormatError
from common.keys import Signer


@dataclass(frozen=True)
class LogState:
    """The state of a log's file, checked.

    Attributes:
        tree: The tree of the tiles that are stored.
        edge: Its right edge, grown by the entries that are in no tile yet.
        signed: The newest checkpoint; None in a log that was only just made.
    """

    tree: TiledTree
    edge: TileEdge
    signed: StoredCheckpoint | None

    @property
    def unsigned(self) -> range:
        """The entries that no checkpoint covers."""
        return range(self.signed.size if self.signed else 0, self.edge.size)


def load_state(store: LogStore, signer: Signer | None) -> LogState:
    """Reads and checks a log's state in one view of its file; costs at most one tile a level.

    Args:
        store: The log's file.
        signer: Its key, if the checkpoint's signature is to be checked too.

    Raises:
        StorageError: If the parts do not agree.
    """
    with store.transaction():
        count, tiled = store.entry_count(), store.tiled_size()
        if tiled > count:
            raise store.damaged(f"it has {count} entries of {tiled} that were logged")
        tree = TiledTree(_load_edge(store, tiled), store.tile, store.damaged)
        _check_tail(store, tree, tiled)
        signed = _newest_checkpoint(store, signer, tree, count)
        edge = tree.edge.copy()
        for start in range(tiled, count, TILE_WIDTH):
            for entry in store.entries(start, min(count, start + TILE_WIDTH)):
                edge.append(leaf_hash(entry))
    return LogState(tree, edge, signed)


def stored_checkpoint(store: LogStore, signer: Signer | None, size: int) -> StoredCheckpoint | None:
    """This signer's checkpoint of a size; without a signer, the one signed last."""
    return store.checkpoint(size, None if signer is None else signer.key_id)


def check_entries(
    store: LogStore, start: int, entries: Sequence[bytes], hashes: Sequence[bytes]
) -> None:
    """Checks entries from index ``start`` on against their leaf hashes."""
    for index, (entry, expected) in enumerate(zip(entries, hashes, strict=True), start):
        if leaf_hash(entry) != expected:
            raise store.damaged(f"entry {index} is not the one that was logged")


def check_checkpoint(
    store: LogStore, signer: Signer | None, stored: StoredCheckpoint, root: bytes
) -> None:
    """Checks what a stored checkpoint states, and its signature if the key is at hand.

    Args:
        store: The log's file.
        signer: The log's key.
        stored: The checkpoint.
        root: The root that the entries give at its size.

    Raises:
        StorageError: If the checkpoint does not state that root, or is not signed.
    """
    try:
        if signer is not None and stored.key_id == signer.key_id:
            key = NoteKey(store.origin, signer.public_key)
            stated = open_checkpoint(stored.note, key).checkpoint
        else:
            stated = Checkpoint.parse(parse_note(stored.note).text)
    except FedprefError as error:
        raise store.damaged(f"checkpoint {stored.size}: {error.message}") from error
    if stated != Checkpoint(store.origin, stored.size, root) or stored.root != root:
        raise store.damaged(f"its entries do not give the root signed at size {stored.size}")


def _load_edge(store: LogStore, size: int) -> TileEdge:
    partial: list[Tile] = []
    for level, width in enumerate(partial_widths(size)):
        number = size >> TILE_HEIGHT * (level + 1)
        what = f"hash tile {number} of level {level}"
        try:
            tile = Tile.decode(store.tile(level, number)) if width else Tile.empty()
        except FormatError as error:
            raise store.damaged(f"{what}: {error.message}") from error
        if tile.width != width:
            raise store.damaged(f"{what} has {tile.width} hashes, not {width}")
        partial.append(tile)
    return TileEdge(size, partial)


def _check_tail(store: LogStore, tree: TiledTree, size: int) -> None:
    """Checks the entries of the last tile; the others are checked when they are read."""
    if size:
        start = (size - 1) // TILE_WIDTH * TILE_WIDTH
        hashes = tree.tile(0, start // TILE_WIDTH).rows[0]
        check_entries(store, start, store.entries(start, size), hashes)


def _newest_checkpoint(
    store: LogStore, signer: Signer | None, tree: TiledTree, count: int
) -> StoredCheckpoint | None:
    newest = store.newest_checkpoint_size()
    if newest is None:
        return None
    if newest > count:
        raise store.damaged(f"its last entries are missing: it has {count}, and signed {newest}")
    stored = stored_checkpoint(store, signer, newest) or store.checkpoint(newest, None)
    if stored is None or newest > tree.edge.size:
        raise store.damaged(f"its hash tiles do not reach the size {newest} that was signed")
    check_checkpoint(store, signer, stored, tree.root(newest))
    return stored
