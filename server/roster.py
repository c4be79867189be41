"""Which node is which region: learnt by asking, kept while the node is there.

A node's answer is a claim. It decides only where requests go: an update counts by the signature of
the region's trainer key, whoever carries it. A node whose replies bear another signature than its
region's is passed over from then on, and another that claims the region gets its place.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from common.errors import FederationError, FedprefError, FormatError
from common.keys import Registry
from common.messages import PROTOCOL_VERSION as PROTOCOL_VERSION
from common.messages import decode_message, encode_message
from common.plan import RunPlan
from server.grid_exchange import pull, push

_DESCRIBE = f"{MessageType.QUERY}.describe"
_MAX_DESCRIPTION_BYTES = 0
_PAUSE_S = 0.02
# A node whose answer was refused may have an engine that is only just starting.
_ASK_AGAIN_S = 2.0


@dataclass(frozen=True)
class _Question:
    message: Message
    node: int
    expires: float


class Roster:
    """The nodes of a plan's regions.

    Args:
        plan: The run plan: only its regions take part.
        registry: The verified key registry.
        describe_timeout_s: For how long a node may take to say which region it is; then it is
            asked again.
        on_refused: Told of each refused claim once: region or None, a reason code, a sentence.
    """

    def __init__(
        self,
        plan: RunPlan,
        registry: Registry,
        *,
        describe_timeout_s: float,
        on_refused: Callable[[str | None, str, str], None],
    ) -> None:
        self._plan = plan
        self._registry = registry
        self._timeout_s = describe_timeout_s
        self._on_refused = on_refused
        self._nodes: dict[str, int] = {}
        self._questions: dict[int, _Question] = {}
        self._not_before: dict[int, float] = {}
        self._present: set[int] = set()
        self._told: set[tuple[int, str]] = set()

    @property
    def nodes(self) -> dict[str, int]:
        """The node of each region that has one, by region in order."""
        return dict(sorted(self._nodes.items()))

    def wait(self, grid: Grid, *, timeout_s: float) -> None:
        """Waits till every region of the plan has a node, or the time is over.

        Args:
            grid: Flower's connection to the nodes.
            timeout_s: The longest to wait, in seconds.

        Raises:
            FederationError: Fewer regions than the quorum came; names those that did not.
        """
        deadline = time.monotonic() + timeout_s
        self.refresh(grid)
        while self._incomplete and time.monotonic() < deadline:
            time.sleep(_PAUSE_S)
            self.refresh(grid)
        if len(self._nodes) < self._plan.quorum:
            missing = sorted(set(self._plan.regions) - set(self._nodes))
            raise FederationError(
                f"After {timeout_s:g} s only {len(self._nodes)} of the {self._plan.quorum} regions "
                f"that a round needs are connected; missing: {', '.join(missing)}.",
                remedy="Start the missing regions' nodes and their engines.",
            )

    def gather(self, grid: Grid, regions: Collection[str], *, timeout_s: float) -> None:
        """Waits till these regions have a node, or the time is over."""
        deadline = time.monotonic() + timeout_s
        self.refresh(grid)
        while not set(regions) <= set(self._nodes) and time.monotonic() < deadline:
            time.sleep(_PAUSE_S)
            self.refresh(grid)

    def settle(self, grid: Grid, *, timeout_s: float) -> None:
        """Waits till every region has a node or no node is still to answer, or the time is over.

        A node whose answer was refused is asked again: its engine may be just starting.
        """
        deadline = time.monotonic() + timeout_s
        self.refresh(grid)
        while self._expectant and self._incomplete and time.monotonic() < deadline:
            time.sleep(_PAUSE_S)
            self.refresh(grid)

    @property
    def _expectant(self) -> bool:
        """Whether some node is still to answer, or will be asked again."""
        placed = set(self._nodes.values())
        refused = {node for node, at in self._not_before.items() if math.isfinite(at)}
        return bool(self._questions) or not (refused & self._present) <= placed

    @property
    def _incomplete(self) -> bool:
        return len(self._nodes) < len(self._plan.regions)

    def refresh(self, grid: Grid) -> None:
        """Takes in who came, who left and what was answered, without waiting for anyone."""
        now = time.monotonic()
        names = {node.node_id: node.name for node in grid.get_nodes()}
        self._present = set(names)
        self._nodes = {region: node for region, node in self._nodes.items() if node in names}
        for node, question in list(self._questions.items()):
            replies = pull(grid, question.message)
            if replies or question.expires < now or node not in names:
                del self._questions[node]
            for reply in replies[:1]:
                self._take(node, names.get(node, ""), reply)
        waiting = {node for node, at in self._not_before.items() if now < at}
        known = {*self._nodes.values(), *self._questions, *waiting}
        if self._incomplete:
            self._ask(grid, sorted(set(names) - known), now)

    def drop(self, region: str, *, bar: bool = False) -> None:
        """Forgets a region's node till it answers again.

        Args:
            region: The region.
            bar: Whether the node is passed over for the rest of the run.
        """
        node = self._nodes.pop(region, None)
        if bar and node is not None:
            self._not_before[node] = math.inf

    def pardon(self) -> None:
        """Lets nodes be asked again that were passed over for what their replies bore.

        For what needs a region's own signature, whoever carries it, and nothing else of it.
        """
        self._not_before = {node: at for node, at in self._not_before.items() if math.isfinite(at)}

    def _ask(self, grid: Grid, nodes: list[int], now: float) -> None:
        messages = [
            Message(
                encode_message({}, {}),
                dst_node_id=node,
                message_type=_DESCRIBE,
                ttl=self._timeout_s + 60,
            )
            for node in nodes
        ]
        for message in push(grid, messages).values():
            node = message.metadata.dst_node_id
            self._questions[node] = _Question(message, node, now + self._timeout_s)

    def _take(self, node: int, name: str, reply: Message) -> None:
        try:
            region = self._read_claim(name, reply)
        except FedprefError as error:
            self._refuse(node, None, "node-not-a-region", error.message)
            return
        holder = self._nodes.setdefault(region, node)
        if holder != node:
            self._refuse(
                node, region, "second-node", f"Nodes {holder} and {node} both say they are it."
            )

    def _read_claim(self, name: str, reply: Message) -> str:
        if not reply.has_content():
            raise FormatError("The node answers with an error.")
        header, _ = decode_message(reply.content, max_array_bytes=_MAX_DESCRIPTION_BYTES)
        region = header.get("region")
        if set(header) != {"region", "protocol", "engine", "trainer_key"}:
            raise FormatError("The node's description has missing or unknown fields.")
        if not isinstance(region, str) or region not in self._plan.regions:
            raise FormatError("The node says it is a region that the plan does not have.")
        if header["protocol"] != PROTOCOL_VERSION:
            raise FormatError(
                f"The node speaks another version of the protocol than this coordinator, which "
                f"speaks {PROTOCOL_VERSION}.",
                remedy="Install the same version of fedpref in the region and here.",
            )
        trainers = {key.key_id for key in self._registry.keys_of(region, "trainer")}
        if header["trainer_key"] not in trainers:
            raise FormatError("The node's trainer key is not its region's in the registry.")
        if name and name != region:
            raise FormatError("The node is registered under another name than its region's.")
        return region

    def _refuse(self, node: int, region: str | None, reason: str, detail: str) -> None:
        self._not_before[node] = time.monotonic() + _ASK_AGAIN_S
        if (node, reason) not in self._told:
            self._told.add((node, reason))
            self._on_refused(region, reason, f"Node {node}: {detail}")
