"""Load on a running recommender: requests at a fixed rate, and how long their answers take.

    python -m benchmarks.recommend_load --token-file HOME/recommend/token --customers refs.txt \
        --address 127.0.0.1:8430 --rate 200 --seconds 30

Requests are due at the times of a Poisson process, whether or not earlier ones are answered, and an
answer's time counts from when its request was due: a service that stalls is not asked less, and its
stall counts for everybody who would have come meanwhile. Waking up for a due time takes up to a
millisecond here, which counts as the service's.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from common.errors import InputError
from common.loopback import LoopbackAddress
from common.terminal import run_command

RECOMMENDATIONS = "/api/v1/recommendations"
EVENTS = "/api/v1/events"
#: Who has no answer after this long has none, in seconds.
ANSWER_S = 10.0
_OK = 200


@dataclass(frozen=True)
class Target:
    """The service that is asked.

    Attributes:
        token: Its access token.
        address: Where it listens; or
        unix_socket: the socket that it listens on.
    """

    token: str
    address: LoopbackAddress | None = None
    unix_socket: Path | None = None

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to it."""
        if self.unix_socket is not None:
            return await asyncio.open_unix_connection(str(self.unix_socket))
        if self.address is None:
            raise InputError("No service is named.", remedy="Name its address or its socket.")
        return await asyncio.open_connection(self.address.host, self.address.port)

    def request(self, path: str, record: object) -> bytes:
        """One request's bytes."""
        body = json.dumps(record).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self.address or 'localhost'}\r\n"
            f"Authorization: Bearer {self.token}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass(frozen=True)
class Load:
    """What was measured.

    Attributes:
        times_ms: From when each answered request was due to its whole answer, ascending.
        refused: Answers with another status than 200.
        lost: Requests without an answer.
        seconds: From the first due time to the last answer.
    """

    times_ms: tuple[float, ...]
    refused: int
    lost: int
    seconds: float

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.times_ms) / self.seconds if self.seconds > 0 else 0.0

    def quantile_ms(self, share: float) -> float:
        """The least time that at least this share of the answers took no longer than.

        A request that was refused or lost has taken for ever.
        """
        asked = len(self.times_ms) + self.refused + self.lost
        place = max(1, -int(-share * asked // 1))
        return self.times_ms[place - 1] if place <= len(self.times_ms) else float("inf")


def put_load(
    target: Target,
    requests: Sequence[bytes],
    *,
    rate: float,
    connections: int = 16,
    seed: int = 1,
    warm_up: int = 20,
) -> Load:
    """Sends requests at a rate and waits for their answers.

    Args:
        target: The service.
        requests: What to send, in this order.
        rate: How many a second, on average.
        connections: How many are open; a request waits for a free one.
        seed: Of the times between requests.
        warm_up: How many of the first requests are sent beforehand too, one after another, and not
            counted.

    Raises:
        InputError: There is no service.
    """
    return asyncio.run(_Loading(target, requests, rate, connections, seed).run(warm_up))


class _Loading:
    def __init__(
        self,
        target: Target,
        requests: Sequence[bytes],
        rate: float,
        connections: int,
        seed: int,
    ) -> None:
        self._target = target
        self._requests = requests
        self._connections = connections
        draws = random.Random(seed)  # noqa: S311 - when to ask, nobody's secret
        due, self._due = 0.0, list[float]()
        for _ in requests:
            due += draws.expovariate(rate)
            self._due.append(due)
        self._waiting: asyncio.Queue[tuple[bytes, float] | None] = asyncio.Queue()
        self._times_ms: list[float] = []
        self._refused = self._lost = 0

    async def run(self, warm_up: int) -> Load:
        """Sends everything."""
        opened = await self._open()
        for request in self._requests[:warm_up]:
            await _exchange(*opened[0], request)
        workers = [asyncio.create_task(self._work(*streams)) for streams in opened]
        began = time.perf_counter()
        for request, due in zip(self._requests, self._due, strict=True):
            ahead = began + due - time.perf_counter()
            if ahead > 0:
                await asyncio.sleep(ahead)
            self._waiting.put_nowait((request, began + due))
        for _ in workers:
            self._waiting.put_nowait(None)
        await asyncio.gather(*workers)
        seconds = time.perf_counter() - began
        for _, writer in opened:
            writer.close()
        return Load(tuple(sorted(self._times_ms)), self._refused, self._lost, seconds)

    async def _open(self) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        try:
            return [await self._target.connect() for _ in range(self._connections)]
        except OSError as error:
            where = self._target.unix_socket or self._target.address
            raise InputError(
                f"No service answers at {where}: {error.strerror}.",
                remedy="Start one: fedpref-region recommend serve.",
            ) from error

    async def _work(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (waiting := await self._waiting.get()) is not None:
            request, due = waiting
            try:
                status = await asyncio.wait_for(_exchange(reader, writer, request), ANSWER_S)
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                self._lost += 1
                writer.close()
                reader, writer = await self._target.connect()
                continue
            if status == _OK:
                self._times_ms.append(1000 * (time.perf_counter() - due))
            else:
                self._refused += 1


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> int:
    """Sends one request and reads its whole answer; gives the status."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
    await reader.readexactly(int(fields.get("content-length", "0")))
    return int(status_line.split(" ", 2)[1])


def customer_requests(
    target: Target, customers: Sequence[str], *, count: int, k: int = 10, seed: int = 1
) -> list[bytes]:
    """Requests for recommendations, each for a customer drawn anew."""
    draws = random.Random(seed)  # noqa: S311 - whom to ask for, nobody's secret
    return [
        target.request(RECOMMENDATIONS, {"customer": draws.choice(customers), "k": k})
        for _ in range(count)
    ]


def print_load(load: Load) -> None:
    """Prints what was measured."""
    counts = f"{len(load.times_ms)} answered, {load.refused} refused, {load.lost} lost"
    print(f"{counts} in {load.seconds:.1f} s: {load.rate:.1f} a second.")  # noqa: T201
    quantiles = ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9"), (1.0, "longest"))
    told = ", ".join(f"{name} {load.quantile_ms(share):.2f} ms" for share, name in quantiles)
    print(told)  # noqa: T201


def _lines(path: Path) -> list[str]:
    """The lines of a file that say something."""
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    token_file: Annotated[Path, typer.Option(help="The service's token: HOME/recommend/token.")],
    customers: Annotated[Path, typer.Option(help="Customers' references, one a line.")],
    address: Annotated[str, typer.Option(help="Where the service listens.")] = "127.0.0.1:8430",
    socket: Annotated[
        Path | None, typer.Option(help="The service's Unix socket, in place of an address.")
    ] = None,
    rate: Annotated[float, typer.Option(min=0.1, help="Requests a second.")] = 200.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="For how long.")] = 30.0,
    k: Annotated[int, typer.Option(min=1, max=1000, help="Items a list.")] = 10,
    connections: Annotated[int, typer.Option(min=1, max=200)] = 16,
    seed: Annotated[int, typer.Option(help="Of the customers and the times.")] = 1,
) -> int:
    """Ask a running recommender for lists at a rate, and say how long the answers took.

    Ends with 1 if a request was refused or lost.
    """
    target = Target(
        "".join(_lines(token_file)),
        address=None if socket else LoopbackAddress.parse(address),
        unix_socket=socket,
    )
    references = _lines(customers)
    if not references:
        raise InputError(f"{customers} names no customer.", remedy="One reference a line.")
    count = max(1, round(rate * seconds))
    requests = customer_requests(target, references, count=count, k=k, seed=seed)
    load = put_load(target, requests, rate=rate, connections=connections, seed=seed)
    print_load(load)
    return 1 if load.refused or load.lost else 0


if __name__ == "__main__":
    run_command(app)
