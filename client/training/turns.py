"""Whose turn it is to train, where several engines share a process, as in simulations.

Training is Python that calls short kernels. Threads that do so at once take the interpreter's lock
from each other at every call, and on as many cores more of them are slower than one after another.
"""

from __future__ import annotations

import os
import threading

#: Held while training: there are as many turns as cores that this process may use.
TRAINING_TURN = threading.BoundedSemaphore(len(os.sched_getaffinity(0)))
