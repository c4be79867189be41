"""Questions to regions beside training: one message to each, and its first reply counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from common.canonical_json import JsonValue
from common.messages import encode_message
from server.grid_exchange import exchange

# A reply is of no use once nobody waits for it.
_TTL_SLACK_S = 60.0


class RegionQueries:
    """Asks regions by Flower's query messages.

    Args:
        timeout_s: For how long all regions together may take, in seconds.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    def ask(
        self,
        grid: Grid,
        action: str,
        nodes: Mapping[str, int],
        headers: Mapping[str, dict[str, JsonValue]],
        server_round: int | None,
    ) -> Iterator[tuple[str, Message]]:
        """Sends each region its question, and gives replies as they arrive.

        Args:
            grid: Flower's connection to the nodes.
            action: What the relay calls the question.
            nodes: Each region's node.
            headers: The question to each region.
            server_round: The round it belongs to, for Flower's grouping.

        Yields:
            Each region's first reply; nothing for a region that does not answer in time.
        """
        messages = {
            region: Message(
                encode_message(header, {}),
                dst_node_id=nodes[region],
                message_type=f"{MessageType.QUERY}.{action}",
                group_id="" if server_round is None else str(server_round),
                ttl=self._timeout_s + _TTL_SLACK_S,
            )
            for region, header in headers.items()
        }
        for reply in exchange(grid, list(messages.values()), timeout_s=self._timeout_s):
            answered = reply.metadata.reply_to_message_id
            # A message has no id before it is sent.
            for region, message in messages.items():
                if message.metadata.message_id == answered:
                    del messages[region]
                    yield region, reply
                    break
