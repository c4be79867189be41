"""What a recommender is asked and answers: plain, frozen data, and the protocol of who answers.

Everything here names customers and items as the region's own store does. Nothing of it leaves the
region but what the shop itself shows to the customer who is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args, runtime_checkable

from common.errors import FedprefError, InputError

#: The longest list that is made for one request; longer ones are a batch's work.
MAX_K = 1000
#: A reference is refused above this, as in the catalogue (`common.catalogue.MAX_REF_BYTES`).
MAX_REF_BYTES = 256
#: Bounds one request's lists of items (exclusions, stock).
MAX_ITEMS_NAMED = 1_000_000

EventKind = Literal["view", "click", "search", "cart", "abandon", "favourite", "purchase"]
EVENT_KINDS: tuple[str, ...] = get_args(EventKind)

#: Why an answer is not personal. The answer has the same form either way.
NotPersonal = Literal[
    "no-customer",  # the query names none
    "unknown-customer",  # the region does not know the customer, or has erased her
    "no-consent",  # consent for recommendations does not stand
    "no-history",  # no purchase in the window and no live event
    "consents-unreadable",  # the consent log cannot be read or does not verify: nobody's consent
    "cold-region",  # nobody's history: the store has none yet
    "scores-not-finite",  # the model or a local release gave this customer no numbers
    "experiment",  # the customer's arm is shown popularity
]
NOT_PERSONAL: tuple[str, ...] = get_args(NotPersonal)

#: Why an item is recommended. `Reason.about` is what the code's comment says.
ReasonCode = Literal[
    "bought-before",  # None
    "like",  # the item of the customer's own history that it is most like
    "category",  # the category's name, of which the customer buys more than others
    "viewed",  # the item of a live view or click
    "searched",  # the category's name of a live search
    "in-cart",  # the item put into the cart
    "abandoned",  # the item of an abandoned cart
    "favourite",  # the item marked
    "just-bought",  # the item bought a moment ago
    "scene",  # the category's name that the scene raises
    "popular-in-region",  # None
    "popular",  # None
    "new-item",  # the category's name; an item that no model has seen
    "also-bought",  # the item that it is bought with
]
REASON_CODES: tuple[str, ...] = get_args(ReasonCode)


class UnknownItemError(InputError):
    """An item that is not in the region's public catalogue."""


class RecommenderClosedError(InputError):
    """A question to a recommender that has been closed."""


class RefreshRunningError(FedprefError):
    """A refresh that is asked for while one is running."""


@dataclass(frozen=True)
class Scene:
    """When and where a recommendation is shown; None stands for any.

    Attributes:
        daypart: One of the settings' dayparts: ``morning``, ``noon``, ``evening``, ``night`` by
            default.
        weekday: 0 for Monday to 6 for Sunday.
        store_type: A kind of store, as the region names it.
    """

    daypart: str | None = None
    weekday: int | None = None
    store_type: str | None = None

    def __post_init__(self) -> None:
        if self.weekday is not None and not (type(self.weekday) is int and 0 <= self.weekday <= 6):
            raise InputError(
                f"A weekday of {self.weekday!r} is not one.",
                remedy="Use 0 for Monday to 6 for Sunday, or leave it out for any.",
            )


@dataclass(frozen=True)
class Query:
    """One request for recommendations.

    Attributes:
        customer: The customer, as the store refers to her; None for nobody in particular.
        k: How many items, 1 to `MAX_K`. A catalogue with fewer that may be shown gives fewer.
        scene: When and where; None for any.
        exclude: Items not to show. References that are not in the catalogue are not shown either
            way, so they are no error.
        in_stock: The items that can be had; None if all can.
        new_only: Whether to leave out what the customer has bought before.
        diversity: 0 for the best scores alone, up to 1 for a list spread over categories.
        dry: Whether only the operator looks at the list: as the customer is not shown it, it is no
            exposure of an experiment.
    """

    customer: str | None
    k: int = 10
    scene: Scene | None = None
    exclude: frozenset[str] = field(default=frozenset())
    in_stock: frozenset[str] | None = None
    new_only: bool = False
    diversity: float = 0.0
    dry: bool = False

    def __post_init__(self) -> None:
        require_places(self.k)
        if self.customer is not None:
            require_reference("customer", self.customer)
        if not (self.scene is None or isinstance(self.scene, Scene)):
            raise InputError("A request's scene is none.", remedy="Pass a Scene, or None for any.")
        # Written so that NaN, which is not in the range, is refused too.
        if not 0.0 <= self.diversity <= 1.0:
            raise InputError(
                f"A diversity of {self.diversity} is not in 0 to 1.",
                remedy="Use 0 for the best scores alone, up to 1 for the widest spread.",
            )
        for named in (self.exclude, self.in_stock or frozenset()):
            if len(named) > MAX_ITEMS_NAMED:
                raise InputError(
                    f"A request names {len(named)} items.",
                    remedy=f"Name at most {MAX_ITEMS_NAMED}.",
                )


@dataclass(frozen=True)
class Reason:
    """Why an item is recommended: a code, for the shop to put into words, and what it is about."""

    code: ReasonCode
    about: str | None = None


@dataclass(frozen=True)
class Recommended:
    """One item of a list.

    Attributes:
        item: The item, as the catalogue refers to it.
        score: What it was ranked by; comparable within one answer only.
        reasons: The strongest first; at least one.
    """

    item: str
    score: float
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class Answer:
    """What was recommended, and on what ground.

    Attributes:
        items: The list, best first.
        personal: Whether the customer's own history or live events were used.
        why_not_personal: One of `NOT_PERSONAL`, or None for a personal answer.
        model: The digest of the model's arrays, as the log entry of its release names it.
        variant: The customer's arm of the running experiment; ``none`` if there is none or she is
            not in it.
        consent_size: The size of the region's log that consent was judged at; 0 if it cannot be
            read.
    """

    items: tuple[Recommended, ...]
    personal: bool
    why_not_personal: NotPersonal | None
    model: str
    variant: str
    consent_size: int


@dataclass(frozen=True)
class Event:
    """Something a customer has just done; it counts from the very next answer.

    Attributes:
        customer: The customer, as the store refers to her.
        kind: What was done.
        item: The item it was done with; None for a whole cart (``abandon``) or a ``search``.
        category: What was searched for or looked through, as the catalogue names it (a category, a
            product type or a department); None otherwise.
        at_ms: When, milliseconds since the epoch.
    """

    customer: str
    kind: EventKind
    item: str | None
    category: str | None
    at_ms: int

    def __post_init__(self) -> None:
        require_reference("customer", self.customer)
        if self.kind not in EVENT_KINDS:
            raise InputError(
                f"An event of kind {self.kind!r} is not known.",
                remedy=f"Use one of {', '.join(EVENT_KINDS)}.",
            )
        if type(self.at_ms) is not int or not 0 <= self.at_ms < 1 << 53:
            raise InputError(
                f"An event's time of {self.at_ms!r} is not in milliseconds since the epoch.",
                remedy="Send a whole number of milliseconds.",
            )
        if self.item is None and self.category is None and self.kind != "abandon":
            raise InputError(
                f"An event of kind {self.kind} names neither an item nor a category.",
                remedy="Say what it was about.",
            )


@runtime_checkable
class Recommends(Protocol):
    """Who answers: `client.recommend.recommender.Recommender`, or a stand-in in tests.

    All methods may be called from several threads at a time.
    """

    @property
    def model(self) -> str:
        """The digest of the model that is served."""
        ...

    def recommend(self, query: Query) -> Answer:
        """The best items for a query.

        Raises:
            InputError: The scene has a daypart or store type that the settings do not know.
        """
        ...

    def similar(self, item: str, k: int) -> tuple[Recommended, ...]:
        """The items most like an item.

        Raises:
            UnknownItemError: The item is not in the catalogue.
            InputError: k is not in 1 to `MAX_K`.
        """
        ...

    def also_bought(self, item: str, k: int) -> tuple[Recommended, ...]:
        """The items that customers who bought an item bought, too.

        Raises:
            UnknownItemError: The item is not in the catalogue.
            InputError: k is not in 1 to `MAX_K`.
        """
        ...

    def observe(self, event: Event) -> bool:
        """Takes in a live event; the very next answer has it.

        Returns:
            Whether it was kept: not for a customer who is unknown or whose consent does not stand.

        Raises:
            UnknownItemError: The item or category is not in the catalogue.
        """
        ...

    def history(self, customer: str) -> tuple[tuple[str, int], ...]:
        """What a customer bought in the window, latest first: item and the purchase's time in ms.

        Empty for a customer who is unknown or whose consent does not stand.
        """
        ...

    def customers(self, limit: int) -> tuple[str, ...]:
        """Some customers who would get a list of their own now, as the store refers to them.

        Args:
            limit: How many at most.
        """
        ...

    def refresh(self) -> None:
        """Reads the store's rows, the published model and local releases anew.

        Consents need no refresh: they are looked up at every request.

        Raises:
            RefreshRunningError: Another one is running; it is not waited for.
        """
        ...

    def close(self) -> None:
        """Closes files; later calls raise `RecommenderClosedError`."""
        ...


def require_reference(what: str, reference: str) -> None:
    """Requires that a reference from outside is printable text of bounded length.

    Raises:
        InputError: It is not.
    """
    if not isinstance(reference, str) or not reference or not reference.isprintable():
        raise InputError(
            f"The {what} of a request is empty or not printable text.",
            remedy="Send the reference that the region's store uses.",
        )
    if len(reference.encode("utf-8", "surrogatepass")) > MAX_REF_BYTES:
        raise InputError(
            f"The {what} of a request is longer than {MAX_REF_BYTES} bytes.",
            remedy="Send the reference that the region's store uses.",
        )


def require_places(k: int) -> None:
    """Requires a number of items that a list can have.

    Raises:
        InputError: It is not in 1 to `MAX_K`.
    """
    if type(k) is not int or not 1 <= k <= MAX_K:
        raise InputError(
            f"A list of {k!r} items cannot be made.",
            remedy=f"Ask for 1 to {MAX_K} items; batch scoring makes longer lists.",
        )
