"""Frames on the engine's socket: what a request and an answer are made of, in bytes.

A frame is ``fpc`` and the protocol's version in one byte, the header's length in 4 bytes and the
body's in 8, both big-endian, the header as canonical JSON, and the body: the arrays as safetensors.
Nothing is ever unpickled. Both ends read the version before anything else, and say so when it is
another than theirs; what is no frame at all gets no answer.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Mapping

import numpy as np

from common import canonical_json
from common.canonical_json import JsonValue
from common.errors import FormatError
from common.parameters import load_arrays, save_arrays
from common.reason_codes import OtherProtocolError, error_of

PROTOCOL = b"fpc"
#: 2: an error is a code and has no words.
VERSION = b"2"
MAGIC = PROTOCOL + VERSION
MAX_HEADER_BYTES = 1 << 20
MAX_BODY_BYTES = 256 << 20

_PREFIX = struct.Struct("!4sIQ")
_PIECE_BYTES = 1 << 20

Header = dict[str, JsonValue]
Arrays = dict[str, np.ndarray]


def send_frame(
    connection: socket.socket, header: Header, arrays: Mapping[str, np.ndarray], deadline: float
) -> None:
    """Sends one frame.

    Args:
        connection: The socket.
        header: What canonical JSON can hold.
        arrays: What goes along; may be empty.
        deadline: By when, on the monotonic clock.

    Raises:
        FormatError: The frame would be over the limits; nothing is sent.
        OSError: The other end is gone, or too slow.
    """
    head = canonical_json.encode(header, max_bytes=MAX_HEADER_BYTES)
    body = save_arrays(arrays) if arrays else b""
    if len(body) > MAX_BODY_BYTES:
        raise FormatError(f"A body of {len(body)} bytes is over the limit of {MAX_BODY_BYTES}.")
    connection.settimeout(_remaining_s(deadline))
    connection.sendall(_PREFIX.pack(MAGIC, len(head), len(body)) + head)
    if body:
        # Whoever has the whole message may be gone: sending nothing would then be an error.
        connection.settimeout(_remaining_s(deadline))
        connection.sendall(body)


def receive_frame(connection: socket.socket, deadline: float) -> tuple[Header, Arrays]:
    """Receives one frame.

    Args:
        connection: The socket.
        deadline: By when all of it must be there, on the monotonic clock.

    Raises:
        OtherProtocolError: The other end speaks another version.
        FormatError: It is no frame, or over the limits.
        OSError: The other end is gone, or too slow.
    """
    magic, head_bytes, body_bytes = _PREFIX.unpack(_read(connection, _PREFIX.size, deadline))
    if magic != MAGIC:
        raise _other_protocol(magic)
    if head_bytes > MAX_HEADER_BYTES or body_bytes > MAX_BODY_BYTES:
        raise FormatError(
            f"A message of {head_bytes} + {body_bytes} bytes is over the channel's limits of "
            f"{MAX_HEADER_BYTES} + {MAX_BODY_BYTES}."
        )
    header = canonical_json.decode(
        bytes(_read(connection, head_bytes, deadline)), max_bytes=MAX_HEADER_BYTES
    )
    if not isinstance(header, dict):
        raise FormatError("A message's header is no object.")
    body = _read(connection, body_bytes, deadline)
    return header, load_arrays(body, max_bytes=MAX_BODY_BYTES) if body else {}


def open_request(request: Header) -> tuple[str, Header]:
    """The method and the header of a request.

    Raises:
        FormatError: It is no request.
    """
    method, header = request.get("method"), request.get("header")
    if set(request) != {"method", "header"} or not isinstance(method, str):
        raise FormatError("A request has exactly a method and a header.")
    if not isinstance(header, dict):
        raise FormatError("A request's header is an object.")
    return method, header


def open_answer(answer: Header) -> Header:
    """The header of an answer.

    Raises:
        FedprefError: The error that the answer's code stands for, in words of this side.
        FormatError: It is neither an answer nor a code.
    """
    code = answer.get("refused")
    if set(answer) == {"refused"} and isinstance(code, str):
        raise error_of(code)
    header = answer.get("answer")
    if set(answer) != {"answer"} or not isinstance(header, dict):
        raise FormatError("The engine's answer has neither an answer nor a reason code.")
    return header


def _other_protocol(magic: bytes) -> FormatError | OtherProtocolError:
    version = magic.removeprefix(PROTOCOL)
    if len(version) != 1 or not version.isdigit():
        return FormatError("The other end of the engine's socket speaks another protocol.")
    return OtherProtocolError(
        f"The other end of the engine's socket speaks version {version.decode()} of its protocol, "
        f"this one {VERSION.decode()}.",
        remedy="Install the same version of fedpref on both sides.",
    )


def _read(connection: socket.socket, size: int, deadline: float) -> bytearray:
    # Memory grows with what arrived, not with what the prefix claims.
    data = bytearray()
    while len(data) < size:
        connection.settimeout(_remaining_s(deadline))
        piece = connection.recv(min(size - len(data), _PIECE_BYTES))
        if not piece:
            raise ConnectionError("the connection ended in the middle of a message")
        data += piece
    return data


def _remaining_s(deadline: float) -> float:
    remaining_s = deadline - time.monotonic()
    if remaining_s <= 0:
        raise TimeoutError("timed out")
    return remaining_s
