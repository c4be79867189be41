"""A user on a SuperNode's or a SuperLink's own machine who takes its tasks.

Both hand tasks to whoever asks at the runtime API. The port may be on the loopback interface, which
every user of the machine reaches.

Touches Flower's internals: how a ClientApp's process takes its message and sends the answer (pinned
to flwr 1.41, see the tests).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
from flwr.app import Message
from flwr.common.constant import SubStatus
from flwr.supercore.constant import TaskType
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from simulations.deployment_attacks.doors import read_door, refusal, take_task
from simulations.deployment_attacks.outcome import Found
from simulations.deployment_attacks.wire import answer_of, content_of


def seize_client_task(given: Mapping[str, Any]) -> Found:
    """Takes a task that is the ClientApp's, and answers in the region's name.

    Args:
        given: ``address``, the node's runtime API; ``answer``, what to answer; ``seconds``, for how
            long to try.
    """
    door = read_door(given)
    try:
        token = take_task(door, TaskType.CLIENT_APP, run=None, look_for_s=float(given["seconds"]))
    except httpx.HTTPError as error:
        return {"refused": refusal(error)}
    if token is None:
        return {"refused": "no task came"}
    with door.task(token, "flwr-clientapp") as task:
        message, context, _, _ = pull_task_input(task)
        forged = Message(content_of(given["answer"]), reply_to=message)
        push_message(task, forged, context)
        push_task_output(task, context, SubStatus.COMPLETED, "")
        return {"took": message.metadata.message_type, "read": answer_of(message, "coordinator")}


def take_server_task(given: Mapping[str, Any]) -> Found:
    """Asks for a task that is the ServerApp's: whoever has it is the coordinator.

    Args:
        given: ``address``, the runtime API, and what `read_door` takes.
    """
    try:
        take_task(read_door(given), TaskType.SERVER_APP, run=None, look_for_s=1.0)
    except httpx.HTTPError as error:
        return {"refused": refusal(error)}
    return {}
