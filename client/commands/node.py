"""``fedpref-region node`` and ``relay``: the two processes between coordinator and engine."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated

import typer

from common.errors import InputError
from common.node_environment import be_quiet
from common.process_control import end_with_supervisor

_log = logging.getLogger("fedpref.relay")

_LOOPBACK = "127.0.0.1"
PortOption = Annotated[
    int, typer.Option(min=1, max=65_535, help="The loopback port between node and relay.")
]
SecretOption = Annotated[Path, typer.Option(help="The file of the secret of node and relay.")]


def node(
    superlink: Annotated[str, typer.Option(help="Host and port of the coordinator's SuperLink.")],
    ca: Annotated[Path, typer.Option(help="The federation's certificate authority (PEM).")],
    key: Annotated[Path, typer.Option(help="The node's private key (OpenSSH, P-384).")],
    secret: SecretOption,
    port: PortOption = 9094,
) -> int:
    """Run the region's SuperNode until interrupted.

    It connects to the coordinator and hands what comes to the relay; it runs no app, looks into no
    bundle, and installs and reports nothing. `fedpref-region start` runs it.
    """
    _refuse_root("node")
    be_quiet()
    end_with_supervisor()
    from client.node.flower_logging import tame_logging
    from client.node.supernode import NodeOptions, run_supernode
    from common.structured_log import log_as_json

    log_as_json("node")
    tame_logging()
    return run_supernode(
        NodeOptions(
            superlink=superlink,
            root_certificates=ca,
            key=key,
            secret_file=secret,
            runtime_port=port,
        )
    )


def relay(
    secret: SecretOption,
    engine_socket: Annotated[Path, typer.Option(help="The engine's socket.")],
    work: Annotated[
        Path, typer.Option(help="A folder of the relay's own, where bundles are unpacked.")
    ],
    runtime_port: PortOption = 9094,
    engine_user: Annotated[
        str | None, typer.Option(help="The engine's user, if it is not the relay's own.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=1, max=86_400, help="For how long the engine may take, in seconds.")
    ] = 3600.0,
    memory_mib: Annotated[
        int, typer.Option(min=64, max=65_536, help="Memory of a bundle, in MiB.")
    ] = 2048,
) -> None:
    """Run the relay until interrupted: it takes the node's tasks in the place of Flower's executor.

    Only a bundle that a permit names, by its SHA-256, is unpacked and run, in a confined child; and
    only what the engine answered leaves. `fedpref-region start` runs it.
    """
    _refuse_root("relay")
    be_quiet()
    end_with_supervisor()
    import signal
    import threading

    from client.node.bundle_runner import BundleRunner
    from client.node.confinement import Limits
    from client.node.executor import Executor
    from client.node.flower_logging import tame_logging
    from client.node.flower_runtime import FlowerTasks
    from client.node.landlock import landlock_version
    from common.engine_socket import SocketChannel
    from common.key_files import read_private
    from common.node_environment import process_environment
    from common.peers import user_id
    from common.process_control import hide_memory
    from common.structured_log import log_as_json, say

    log_as_json("relay")
    tame_logging()
    hide_memory()
    if landlock_version():
        say(_log, logging.INFO, "confinement-complete")
    else:
        say(_log, logging.WARNING, "confinement-without-landlock")
    runner = BundleRunner(process_environment(work))
    engine = SocketChannel(
        engine_socket,
        timeout_s=timeout,
        engine_user=None if engine_user is None else user_id(engine_user),
    )
    executor = Executor(
        FlowerTasks(f"{_LOOPBACK}:{runtime_port}", read_private(secret, "relay's secret")),
        engine,
        runner,
        work_folder=work.absolute(),
        # What it waits for is the engine, which ends first.
        limits=Limits(memory_bytes=memory_mib << 20, wall_s=timeout + 60.0),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        # In a thread of its own: the one that is interrupted may hold what it needs.
        signal.signal(number, lambda *_: threading.Thread(target=executor.stop).start())
    try:
        executor.serve_forever()
    finally:
        runner.close()


def _refuse_root(name: str) -> None:
    if os.geteuid() == 0:
        raise InputError(
            f"The {name} does not run as root: it meets what the coordinator sends.",
            remedy="Start it by `fedpref-region start`, or as a user of its own.",
        )
