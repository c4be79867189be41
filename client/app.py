"""The region's ClientApp: a relay between the coordinator and the region's privacy engine.

It decodes a request, hands it to the engine, and carries back what the engine sealed. It has no
mathematics and no data, and this file with the codec is all that the coordinator ships: the engine
is installed and pinned by the region.
"""

from __future__ import annotations

import logging

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from common.engine_channel import resolve_channel
from common.errors import FedprefError
from common.messages import decode_message, encode_message
from common.reason_codes import relay_reason_code

_log = logging.getLogger("fedpref.relay")

app = ClientApp()


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """Answers who this node's region is."""
    return _relay("describe", message, context)


@app.query("publish")
def publish(message: Message, context: Context) -> Message:
    """Carries the request for the checkpoint of the region's log, and the checkpoint back."""
    return _relay("publish", message, context)


@app.query("cosign")
def cosign(message: Message, context: Context) -> Message:
    """Carries the others' checkpoints to the region's witness, and its cosignatures back."""
    return _relay("cosign", message, context)


@app.query("keep")
def keep(message: Message, context: Context) -> Message:
    """Carries the others' cosignatures of the region's checkpoint to where they are kept."""
    return _relay("keep", message, context)


@app.query("mask")
def mask(message: Message, context: Context) -> Message:
    """Carries the roster of a secure sum to the engine, and the masked update back."""
    return _relay("mask", message, context)


@app.query("execute")
def execute(message: Message, context: Context) -> Message:
    """Carries a step of an execution of double masking to the engine, and its answer back."""
    return _relay("execute", message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Carries one round's request to the engine, and the sealed update back."""
    return _relay("train", message, context)


def _relay(method: str, message: Message, context: Context) -> Message:
    """Relays one call; whatever fails, only a reason code leaves the region.

    An exception's text may quote a record, and Flower would send it to the coordinator.
    """
    try:
        header, arrays = decode_message(message.content)
        answer, answered = resolve_channel(context.node_config).call(method, header, arrays)
        content = encode_message(answer, answered)
    except FedprefError as error:
        _log.warning("%s was refused: %s", method, type(error).__name__)
        content = encode_message({"status": "refused", "reason": relay_reason_code(error)}, {})
    # Flower sends the text of any exception that gets past here to the coordinator.
    except Exception as error:  # noqa: BLE001
        _log.error("%s failed: %s", method, type(error).__name__)
        content = encode_message({"status": "refused", "reason": "relay-failure"}, {})
    return Message(content, reply_to=message)
