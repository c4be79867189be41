"""What a region has released to itself: read back, verified, and turned into factors and lists.

A file is used only if everything about it holds: its signed query and answer, the answer's place in
the region's own log, the digest of its values, the catalogue and the model that it is over. What
does not hold is not used, and the reader is told why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from client.engine.home import RegionHome
from client.engine.queries import Query, QueryPart, read_query
from client.engine.sealed_answers import SealedAnswer
from client.engine.sealed_file import MAX_SEAL_BYTES
from client.recommend.local_estimates import bias_factors, pair_scores, scene_factors
from client.recommend.local_statistics import (
    ALSO_BOUGHT,
    REGIONAL_BIAS,
    SCENES,
    STATISTICS,
    STORE_TYPES,
    Clock,
)
from client.recommend.settings import recommend_folder
from client.recommend.store_types import StoreFactors
from client.recommend.types import Scene
from common.audit.log import AuditLog
from common.audit.merkle import leaf_hash
from common.catalogue import Catalogue
from common.durable_file import make_folder_durably, write_durably
from common.envelope import Envelope, verify_envelope
from common.errors import FedprefError, StorageError, VerificationError
from common.keys import Registry
from common.model_state import ModelState
from common.parameters import arrays_digest, check_arrays

LOCAL_FOLDER = "local"
_SUFFIX = ".answer"

Float32Array = npt.NDArray[np.float32]
LongArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LocalAnswer:
    """A verified answer of the region to its own query.

    Attributes:
        part: The part of the query that it answers.
        query: The query.
        index: Where the answer stands in the region's log.
        values: What was computed, noised.
    """

    part: QueryPart
    query: Query
    index: int
    values: Float32Array = field(repr=False)


@dataclass(frozen=True, eq=False)
class LocalReleases:
    """What a region's recommender may use of its other customers' data.

    Attributes:
        answers: The verified answers, by what was asked.
        left_out: Of each file that is not used, why; by what was asked.
        scenes: float32[n_categories, moments], factors by the clock's parts of the day, then Monday
            to Sunday; None without scenes.
        clock: How the scenes' moments are told apart.
        regional_bias: float32[n_items], factors of an item's score, 1 outside the vocabulary; None
            without a bias.
        vocabulary: int64[m], the items of `pairs`.
        pairs: float32[m, m], how much oftener items are bought together than their numbers
            explain, 0 where noise may be all of it; None without pairs.
        stores: What is bought in which kind of store; None without that.
    """

    answers: Mapping[str, LocalAnswer]
    left_out: Mapping[str, str]
    scenes: Float32Array | None = field(repr=False)
    clock: Clock | None
    regional_bias: Float32Array | None = field(repr=False)
    vocabulary: LongArray = field(repr=False)
    pairs: Float32Array | None = field(repr=False)
    stores: StoreFactors | None = field(default=None, repr=False)

    @classmethod
    def none(cls) -> LocalReleases:
        """Of a region that has released nothing to itself."""
        return cls({}, {}, None, None, None, np.zeros(0, dtype=np.int64), None)

    @classmethod
    def load(
        cls,
        home: RegionHome,
        log: AuditLog,
        registry: Registry,
        *,
        catalogue: Catalogue,
        model_digest: str,
        model: ModelState,
    ) -> LocalReleases:
        """Reads and verifies what `fedpref-region recommend prepare` has left in a home.

        Args:
            home: The region's home.
            log: Its own log, open for reading at least.
            registry: The verified key registry.
            catalogue: The region's public catalogue.
            model_digest: Digest of the model that is served.
            model: That model.

        Returns:
            What holds; a file that does not is left out, and said to be.
        """
        answers: dict[str, LocalAnswer] = {}
        left_out: dict[str, str] = {}
        for name in STATISTICS:
            try:
                answer = read_answer(local_path(home, name), name, home.region, log, registry)
                if answer is not None:
                    _require_over(answer, catalogue, model_digest)
                    answers[name] = answer
            except FedprefError as error:
                left_out[name] = str(error)
        scenes = answers.get(SCENES)
        clock = None if scenes is None else Clock.from_record(scenes.part.parameters)
        return cls(
            answers=answers,
            left_out=left_out,
            scenes=None if scenes is None or clock is None else _scene_factors(scenes, clock),
            clock=clock,
            regional_bias=_bias(answers.get(REGIONAL_BIAS), model),
            vocabulary=model.vocabulary,
            pairs=_pairs(answers.get(ALSO_BOUGHT), len(model.vocabulary)),
            stores=_stores(answers.get(STORE_TYPES)),
        )

    def scene_factor(self, scene: Scene) -> Float32Array | None:
        """By how much a scene raises each category's items, or lowers them.

        Args:
            scene: The scene. A part of the day that was not asked for says nothing; neither does a
                kind of store.

        Returns:
            float32[n_categories]; None if nothing is known of the scene.
        """
        known = self._moments(scene)
        of_store = None if self.stores is None else self.stores.factor(scene.store_type)
        if of_store is not None:
            known.append(of_store)
        if not known:
            return None
        # Tables, each taken for independent of the others given the category.
        factor: Float32Array = np.prod(known, axis=0).astype(np.float32)
        return factor

    def _moments(self, scene: Scene) -> list[Float32Array]:
        """The factors of a scene's part of the day, and of its weekday, as far as known."""
        if self.scenes is None or self.clock is None:
            return []
        names, columns = list(self.clock.dayparts), []
        if scene.daypart in names:
            columns.append(names.index(str(scene.daypart)))
        if scene.weekday is not None:
            columns.append(len(names) + scene.weekday)
        return [self.scenes[:, column] for column in columns]

    def also_bought(self, item: int, k: int) -> tuple[LongArray, Float32Array] | None:
        """The items that customers who bought an item bought, too.

        Args:
            item: The item's number.
            k: How many at most.

        Returns:
            int64[n] and float32[n]: item numbers and scores, best first, those above the noise
            only; None if nothing is known of the item.
        """
        (place,) = np.nonzero(self.vocabulary == item)
        if self.pairs is None or not len(place):
            return None
        scores = self.pairs[int(place[0])]
        best = np.lexsort((self.vocabulary, -scores))[: max(k, 0)]
        best = best[scores[best] > 0]
        if not len(best):
            return None
        return self.vocabulary[best], scores[best]


def local_path(home: RegionHome, name: str) -> Path:
    """The file of what was asked last under a name."""
    return recommend_folder(home) / LOCAL_FOLDER / f"{name}{_SUFFIX}"


def publish(home: RegionHome, name: str, answer: SealedAnswer) -> Path:
    """Puts a logged answer where the recommender finds it; done again, it changes nothing.

    Raises:
        StorageError: The disk refuses; what was there before stays.
    """
    path = local_path(home, name)
    try:
        make_folder_durably(path.parent.parent)
        make_folder_durably(path.parent)
        write_durably(path, answer.encode())
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: {error.strerror}.",
            remedy="Free disk space and give the same command again: nothing is charged twice.",
        ) from error
    return path


def read_answer(
    path: Path, name: str, region: str, log: AuditLog, registry: Registry
) -> LocalAnswer | None:
    """Reads one answer and verifies all of it; None if there is none.

    Args:
        path: Its file.
        name: What must have been asked.
        region: The region.
        log: The region's own log.
        registry: The verified key registry.

    Raises:
        StorageError: The file cannot be read, or is damaged.
        PolicyError: Its query is not the region's.
        VerificationError: Its entry is not the region's, is not logged, or is of other values.
    """
    try:
        if path.stat().st_size > MAX_SEAL_BYTES:
            raise StorageError(f"{path} is larger than any answer can be.")
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}.") from error
    sealed = SealedAnswer.decode(data, path)
    query = read_query(sealed.query, registry, region)
    part = query.part(name)
    _require_answer(sealed, query, part, registry, path)
    check_arrays(sealed.arrays, (part.spec,), grid=part.grid)
    wanted = leaf_hash(sealed.entry)
    for index in range(sealed.log_size, log.size):
        if log.leaf_hash(index) == wanted:
            values = sealed.arrays[part.spec.name].astype(np.float32)
            return LocalAnswer(part, query, index, values)
    raise _refused(path, "its entry is not in the region's log")


def _require_answer(
    sealed: SealedAnswer, query: Query, part: QueryPart, registry: Registry, path: Path
) -> None:
    """Requires that an entry is the region's answer to this part, of these values."""
    envelope = Envelope.decode(sealed.entry)
    keys = registry.keys_of(query.region, "trainer")
    try:
        verify_envelope(envelope, {key.key_id: key.public_key for key in keys})
    except FedprefError as error:
        raise _refused(path, f"its entry is not the region's: {error.message}") from error
    record = envelope.record()
    expected = {
        "region": query.region,
        "run": query.run,
        "round": part.number,
        "mechanism": part.name,
        "permit_id": query.permit_id,
        "catalogue": query.catalogue,
        "values": arrays_digest(sealed.arrays),
    }
    wrong = [name for name, value in expected.items() if record.get(name) != value]
    if envelope.kind != "answer" or wrong:
        raise _refused(path, f"its entry is of another {', '.join(wrong) or 'kind'}")


def _require_over(answer: LocalAnswer, catalogue: Catalogue, model_digest: str) -> None:
    name = answer.part.name
    if answer.query.catalogue != catalogue.digest:
        raise VerificationError(
            f"The region's {name} are over another catalogue than the one in use.",
            remedy="Prepare them anew: fedpref-region recommend prepare.",
        )
    if answer.part.parameters.get("model", model_digest) != model_digest:
        raise VerificationError(
            f"The region's {name} are over the vocabulary of another model than the one served.",
            remedy="Prepare them anew: fedpref-region recommend prepare.",
        )


def _scene_factors(answer: LocalAnswer, clock: Clock) -> Float32Array:
    return scene_factors(answer.values, len(clock.dayparts), answer.part.noise_stddev)


def _bias(answer: LocalAnswer | None, model: ModelState) -> Float32Array | None:
    if answer is None:
        return None
    shared = model.popularity[model.vocabulary]
    factors = np.ones(model.n_items, dtype=np.float32)
    factors[model.vocabulary] = bias_factors(answer.values, shared, answer.part.noise_stddev)
    return factors


def _pairs(answer: LocalAnswer | None, n_vocabulary: int) -> Float32Array | None:
    if answer is None:
        return None
    return pair_scores(answer.values, n_vocabulary, answer.part.noise_stddev)


def _stores(answer: LocalAnswer | None) -> StoreFactors | None:
    if answer is None:
        return None
    part = answer.part
    return StoreFactors.of(answer.values, dict(part.parameters), part.noise_stddev)


def _refused(path: Path, why: str) -> VerificationError:
    return VerificationError(
        f"{path} is not used: {why}.",
        remedy="Prepare it anew: fedpref-region recommend prepare.",
    )
