"""What Flower and its HTTP client log in our processes: plain lines, once, and not each look.

They know nothing of customers: what they say is of nodes, runs and messages, by number. It says why
a SuperNode cannot connect, so it is kept as text; everything else a process logs is structured.
"""

from __future__ import annotations

import logging

from flwr.supercore.logger import FLOWER_LOGGER, update_console_handler


def tame_logging() -> None:
    """Has Flower log from INFO on, with times and without colours; its HTTP client, warnings."""
    FLOWER_LOGGER.propagate = False
    update_console_handler(level=logging.INFO, timestamps=True, colored=False)
    logging.getLogger("httpx").setLevel(logging.WARNING)
