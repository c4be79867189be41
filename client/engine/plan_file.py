"""A run plan as the coordinator's operator sent it, and as it lies beside a permit."""

from __future__ import annotations

from pathlib import Path

from common import canonical_json
from common.errors import FormatError, InputError
from common.plan import RunPlan

_MAX_PLAN_BYTES = 1 << 20


def read_plan(path: Path) -> RunPlan:
    """Reads a run plan.

    Raises:
        InputError: The file is missing or not a plan.
    """
    try:
        return RunPlan.from_record(
            canonical_json.decode(path.read_bytes(), max_bytes=_MAX_PLAN_BYTES)
        )
    except OSError as error:
        raise InputError(
            f"The run plan {path} cannot be read: {error.strerror}.",
            remedy="Name the plan.json that the server's operator sent.",
        ) from error
    except FormatError as error:
        raise InputError(f"{path} is not a run plan: {error.message}") from error
