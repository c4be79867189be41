"""What code of a bundle may not ask the kernel for: a seccomp filter (seccomp(2), BPF).

A relay's bundle computes and talks over two sockets that it was started with. So it makes no other
and connects none, not even to a Unix socket: it has the user of the relay, to whom the region's
engine answers, and Landlock does not cover the paths of sockets. It starts no program and no
process, and touches no other process. The filter cannot be taken off again, and what it denies
fails with ``EPERM``.
"""

from __future__ import annotations

import ctypes
import platform
import struct
from dataclasses import dataclass

from common.errors import InputError
from common.process_control import process_control

# linux/seccomp.h, linux/bpf_common.h
_RET_KILL_PROCESS = 0x8000_0000
_RET_ERRNO = 0x0005_0000
_RET_ALLOW = 0x7FFF_0000
_LOAD_WORD, _JUMP_EQUAL, _JUMP_GE, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_EPERM, _ENOSYS = 1, 38
# struct seccomp_data: number, architecture, instruction pointer, six arguments of 64 bits.
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
_CLONE_THREAD = 0x0001_0000
#: On x86-64, numbers from here on are those of the x32 interface, another name for each call.
_X32_BIT = 0x4000_0000
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2

_INSTRUCTION = struct.Struct("=HBBI")

#: Denied calls: their numbers on x86-64 and on AArch64; None where there is no such call.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    "execve": (59, 221),
    "execveat": (322, 281),
    # A pair could be of datagram sockets, which can send to any path without connecting.
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "fork": (57, None),
    "vfork": (58, None),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "kcmp": (312, 272),
    "mount": (165, 40),
    "umount2": (166, 39),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "reboot": (169, 142),
}


@dataclass(frozen=True)
class _Machine:
    """A processor's system calls: where its column is, and the numbers that are judged apart."""

    column: int
    architecture: int
    clone: int
    clone3: int


_MACHINES = {
    "x86_64": _Machine(0, 0xC000_003E, clone=56, clone3=435),
    "aarch64": _Machine(1, 0xC000_00B7, clone=220, clone3=435),
}


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def filter_program(machine: str) -> bytes:
    """The filter for a processor, as BPF instructions.

    Args:
        machine: ``x86_64`` or ``aarch64``.

    Raises:
        InputError: For no other is it written.
    """
    if machine not in _MACHINES:
        raise InputError(
            f"There is no system call filter for {machine}: bundles cannot be confined here.",
            remedy="Run the relay on x86_64 or aarch64.",
        )
    kind = _MACHINES[machine]
    # A wrong architecture means another table of numbers: nothing could be judged.
    program = [
        _load(_ARCHITECTURE_AT),
        _jump(_JUMP_EQUAL, kind.architecture, 1, 0),
        _return(_RET_KILL_PROCESS),
        _load(_NUMBER_AT),
    ]
    if machine == "x86_64":
        program += [_jump(_JUMP_GE, _X32_BIT, 0, 1), _return(_RET_ERRNO | _EPERM)]
    for numbers in _DENIED.values():
        if (number := numbers[kind.column]) is not None:
            program += [_jump(_JUMP_EQUAL, number, 0, 1), _return(_RET_ERRNO | _EPERM)]
    # Its flags are behind a pointer, out of a filter's sight; the C library then uses clone.
    program += [_jump(_JUMP_EQUAL, kind.clone3, 0, 1), _return(_RET_ERRNO | _ENOSYS)]
    # A new thread is none of its business, a new process is.
    program += _unless(kind.clone, _jump(_JUMP_SET, _CLONE_THREAD, 1, 0))
    program.append(_return(_RET_ALLOW))
    return b"".join(program)


def install_filter() -> None:
    """Puts this thread, and all it starts, under the filter; ``no_new_privs`` must be set.

    Raises:
        InputError: The processor or the kernel has no such filters.
    """
    program = filter_program(platform.machine())
    buffer = ctypes.create_string_buffer(program, len(program))
    described = _Program(len(program) // _INSTRUCTION.size, ctypes.addressof(buffer))
    try:
        process_control(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(described))
    except OSError as error:
        raise InputError(
            f"The kernel takes no system call filter: {error.strerror}.",
            remedy="Run the relay on a kernel with seccomp filters.",
        ) from error


def _unless(number: int, judge: bytes) -> list[bytes]:
    """Denies a call unless its first argument passes; then goes on with the number loaded."""
    return [
        _jump(_JUMP_EQUAL, number, 0, 4),
        _load(_FIRST_ARGUMENT_AT),
        judge,
        _return(_RET_ERRNO | _EPERM),
        _return(_RET_ALLOW),
    ]


def _load(offset: int) -> bytes:
    return _INSTRUCTION.pack(_LOAD_WORD, 0, 0, offset)


def _jump(code: int, value: int, if_true: int, if_false: int) -> bytes:
    return _INSTRUCTION.pack(code, if_true, if_false, value)


def _return(value: int) -> bytes:
    return _INSTRUCTION.pack(_RETURN, 0, 0, value)
