"""Takes one customer's profile out, at once."""

from __future__ import annotations

import numpy as np

from client.profiles.purchases import shard_of
from client.profiles.store import ProfileStore
from client.profiles.tables import added, sids_of


def forget(store: ProfileStore, sid: str) -> bool:
    """Takes one customer's facts, and what is said of her, out of what is kept.

    Args:
        store: The profiles.
        sid: Her pseudonym, 64 hex digits.

    Returns:
        Whether there was anything of hers.

    Raises:
        StorageError: Another process is writing, or the disk refuses.
        DamagedProfilesError: What is kept cannot be read.
    """
    who = sids_of([sid])
    number = int(shard_of(who)[0])
    with store.exclusive():
        manifest = store.manifest()
        if manifest is None:
            return False
        admitted = store.admitted(manifest)
        # Whoever is not admitted counts for nothing until the next build.
        staying = admitted[admitted != who[0]]
        if len(staying) == len(admitted):
            return False
        shard = manifest.shards[number]
        with store.change(manifest) as change:
            change.put_admitted(staying)
            if shard.layers:
                whole = added(store.facts(shard, marks=True))
                change.replace_layers(number, whole.take(np.flatnonzero(whole.sids != who[0])))
                judged = store.judged(shard)
                change.put_judged(number, judged.take(np.flatnonzero(judged.sids != who[0])))
            change.commit()
    return True
