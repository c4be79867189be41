"""From the region's store and consent log to the data set of one round."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from client.analytics.answerability import require_answerable
from client.analytics.key_release import KeyStatistic
from client.analytics.planned import planned_statistic
from client.analytics.purchases import PurchaseStatistic
from client.data.consent_filter import EligibleCustomers, filter_consented
from client.data.dataset import MAX_ROWS_PER_CUSTOMER, PreferenceDataset
from client.data.prepared_files import DamagedRowsError
from client.data.quality import QualityReport
from client.data.refresh import Refreshed
from client.data.tables.declaration import declared_tables
from client.data.tables.joining import join_consented
from client.data.transactions import CheckedTransactions, Purchases
from client.engine.home import RegionHome
from client.engine.kept_store import KeptStore
from client.engine.kept_tables import KeptTables
from client.engine.log_state import LogState
from client.engine.policy import RegionPolicy
from client.recommend.settings import running_experiment
from client.settings import declared_source
from common.analytics.further_questions import FURTHER, Named
from common.analytics.key_questions import KEY_QUESTIONS
from common.analytics.question_records import Question
from common.audit.sparse_merkle import position, sparse_root
from common.errors import ConsentError, PolicyError
from common.plan import RunPlan
from common.timestamps import parse_time

NONCE_BYTES = 32
_logger = logging.getLogger("fedpref.engine")


@dataclass(frozen=True)
class ConsentSnapshot:
    """Who may be trained on, at one size of the log.

    Attributes:
        eligible: The customers; only the consent filter can use it.
        consent_size: The log's size it was taken at.
        consent_root: The log's root hash at that size, in hex.
        nonce: The round's random nonce that separates its positions from other rounds', in hex.
        size_bucket: The number of eligible customers as a power-of-two interval.
        at_ms: When it was taken, in milliseconds since the epoch.
    """

    eligible: EligibleCustomers
    consent_size: int
    consent_root: str
    nonce: str
    size_bucket: str
    at_ms: int

    @classmethod
    def take(
        cls,
        state: LogState,
        policy: RegionPolicy,
        pseudonyms: Mapping[str, str],
        *,
        at_ms: int,
        purpose: str,
        log_root: bytes,
        also: Collection[str] = (),
    ) -> ConsentSnapshot:
        """Takes a snapshot of a log state that was just refreshed.

        Args:
            state: The log's state.
            policy: The region's policy.
            pseudonyms: The region's customers, by the store's references.
            at_ms: Now, in milliseconds since the epoch.
            purpose: What customers must have consented to.
            log_root: The log's root hash at the state's size.
            also: What else, all of it.

        Raises:
            ConsentError: No customer's consent is in force.
        """
        eligible = EligibleCustomers.from_replay(
            state.consents,
            purpose=purpose,
            at_ms=at_ms,
            consent_size=state.size,
            subject_ids=pseudonyms,
            notice_grace_s=policy.notice_grace_s,
            also=also,
        )
        if not eligible.sids:
            raise ConsentError(
                f"{policy.region}: no customer's consent for {' and '.join((purpose, *also))} is "
                "in force; there is nothing to learn from.",
                remedy="It can be learned from once customers have consented.",
            )
        return cls(
            eligible=eligible,
            consent_size=state.size,
            consent_root=log_root.hex(),
            nonce=os.urandom(NONCE_BYTES).hex(),
            size_bucket=_power_of_two_interval(len(eligible.sids)),
            at_ms=at_ms,
        )

    @cached_property
    def train_root(self) -> str:
        """Root of the compressed sparse Merkle tree over the eligible customers, in hex.

        Computed when first asked for: a large region publishes without waiting for it.
        """
        nonce = bytes.fromhex(self.nonce)
        train_root = sparse_root(position(nonce, bytes.fromhex(sid)) for sid in self.eligible.sids)
        return train_root.hex()


def _power_of_two_interval(count: int) -> str:
    low = 1 << (count.bit_length() - 1)
    return f"{low}-{2 * low - 1}"


class RegionData:
    """The region's store behind its quality gate, and the data set that a round learns from.

    Args:
        home: The region's home.
        policy: Its policy.
    """

    def __init__(self, home: RegionHome, policy: RegionPolicy) -> None:
        self._home = home
        self._policy = policy
        self._store = KeptStore(home, float(policy.quality_threshold))
        self._tables = KeptTables(home, float(policy.quality_threshold))
        self._dataset: _PreparedDataset | None = None

    def quality_report(self) -> QualityReport:
        """The quality gate's report on the store.

        Raises:
            QualityGateError: The store is below the policy's threshold.
            InputError: The store or the catalogue cannot be read.
        """
        return self.checked_transactions().report

    def dataset(self, plan: RunPlan, eligible: EligibleCustomers) -> PreferenceDataset:
        """The eligible customers' data in the plan's training window, as the store is now.

        Raises:
            QualityGateError: The store is below the policy's threshold.
            InputError: The store or the catalogue cannot be read.
            PolicyError: The run is over another catalogue.
        """
        checked = self.checked_transactions()
        known = self._dataset
        if known is None or not known.is_of(checked, plan, eligible):
            self.require_catalogue_of(plan)
            # First, as two of them may not fit into memory.
            self._dataset = known = None
            dataset = self._prepare(checked, plan, eligible)
            self._dataset = known = _PreparedDataset(checked, plan.digest, eligible.sids, dataset)
        return known.dataset

    def _prepare(
        self, checked: CheckedTransactions, plan: RunPlan, eligible: EligibleCustomers
    ) -> PreferenceDataset:
        try:
            dataset = PreferenceDataset.from_consented(
                filter_consented(checked, eligible),
                self._store.catalogue(),
                start_ms=parse_time(plan.train_from),
                end_ms=parse_time(plan.train_until),
                max_rows_per_customer=MAX_ROWS_PER_CUSTOMER,
            )
        except DamagedRowsError:
            self._store.forget()
            raise
        if dataset.capped_customers:
            # The region's own log; the counts do not leave.
            _logger.warning(
                "%d customers have more purchases in the window than %d: the oldest, %d in "
                "all, are left out",
                dataset.capped_customers,
                MAX_ROWS_PER_CUSTOMER,
                dataset.capped_rows,
            )
        return dataset

    def statistic(
        self, plan: RunPlan, name: str, step: Question | None = None
    ) -> PurchaseStatistic | KeyStatistic:
        """What a plan of questions asks under a name, as this region computes it.

        Args:
            plan: A plan of questions.
            name: The question's name.
            step: Which step of it, as `common.cluster_steps` gives it; the first one if None.

        Raises:
            PolicyError: The region understands something else by it, or its catalogue is another.
            InputError: The catalogue or a declaration cannot be read, or the region's tables have
                nothing to say to it.
        """
        self.require_catalogue_of(plan)
        time_zone = declared_source(self._home).time_zone
        found = planned_statistic(
            plan, name, self._store.catalogue(), time_zone=time_zone, step=step
        )
        if name in (*FURTHER, *KEY_QUESTIONS):
            # An answer that could only be noise is neither given nor paid for.
            planned = plan.question(name)
            require_answerable(
                self._home.region,
                name,
                Named.of(planned.asked, planned.parameters),
                declared_tables(self._home),
                experiment=running_experiment(self._home),
            )
        return found

    def consented(
        self, eligible: EligibleCustomers, catalogue: str, tables: Sequence[str] = ()
    ) -> Iterator[Purchases]:
        """The eligible customers' purchases as the store is now, part by part.

        All that can be refused is refused by the call, before the first part is asked for: whoever
        pays for what is computed of them calls this first.

        Args:
            eligible: The customers.
            catalogue: Digest of the catalogue that items must be numbers of.
            tables: The further tables whose rows are to lie beside the purchases.

        Raises:
            QualityGateError: The store or a table is below the policy's threshold.
            InputError: The store, a table or the catalogue cannot be read, or a table is not
                declared.
            PolicyError: The region's catalogue is another one.
        """
        own = self._store.catalogue().digest
        if own != catalogue:
            raise PolicyError(
                f"{self._policy.region}: the query's catalogue ({catalogue[:12]}…) is not the "
                f"region's ({own[:12]}…).",
                remedy="Ask anew under the region's public catalogue.",
            )
        parts = self._consented_parts(self.checked_transactions(), eligible)
        if not tables:
            return parts
        return join_consented(parts, self._tables.rows(tables, eligible), eligible)

    def _consented_parts(
        self, checked: CheckedTransactions, eligible: EligibleCustomers
    ) -> Iterator[Purchases]:
        try:
            yield from filter_consented(checked, eligible).parts()
        except DamagedRowsError:
            self._store.forget()
            raise

    def customer_refs(self) -> list[str]:
        """The region's own customers, as its store refers to them, sorted."""
        return sorted(ref for part in self.checked_transactions().parts() for ref in part.owners)

    def checked_transactions(self) -> CheckedTransactions:
        """The store's rows that passed the quality gate; what is new in the store among them.

        Raises:
            QualityGateError: The store is below the policy's threshold.
            InputError: The store or the catalogue cannot be read.
            StorageError: What is read of the store cannot be kept.
        """
        return self._store.checked()

    def refresh(self, *, anew: bool = False) -> Refreshed:
        """Looks for what is new in the store now, ahead of a round; see `KeptStore.refresh`."""
        return self._store.refresh(anew=anew)

    def require_catalogue_of(self, plan: RunPlan) -> None:
        """Checks that a run is over the region's own public catalogue.

        Raises:
            PolicyError: It is over another one.
        """
        catalogue = self._store.catalogue()
        if (catalogue.digest, catalogue.n_items) != (plan.catalogue, plan.n_items):
            raise PolicyError(
                f"{self._policy.region}: the run's catalogue ({plan.catalogue[:12]}…) is not the "
                f"region's ({catalogue.digest[:12]}…).",
                remedy="Give both sides the same public catalogue.",
            )


@dataclass(frozen=True)
class _PreparedDataset:
    """A data set, and what it was made of."""

    checked: CheckedTransactions
    plan: str
    sids: frozenset[str]
    dataset: PreferenceDataset

    def is_of(
        self, checked: CheckedTransactions, plan: RunPlan, eligible: EligibleCustomers
    ) -> bool:
        return self.checked is checked and self.plan == plan.digest and self.sids == eligible.sids
