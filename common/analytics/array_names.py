"""What the arrays that answer questions are called, in messages, logs and files."""

from __future__ import annotations


def array_of(question_name: str) -> str:
    """The name of the array that answers a question."""
    return question_name.replace("-", "_")


def keys_array_of(question_name: str) -> str:
    """The name of the array with the keys that answer a question; their values are in the other."""
    return f"{array_of(question_name)}_keys"


def region_array(region: str, array: str) -> str:
    """The name of an array of one region's own answer."""
    return f"{region}/{array_of(array)}"
