"""A load generator in a process of its own: `python load.py HOST PORT CLIENTS SECONDS PATH BODY` prints JSON.

Clients are closed loops over keep-alive connections and write prepared bytes, so that what is measured is the server.
"""

import asyncio
import json
import statistics
import sys
import time

WARM_SECONDS = 0.5


async def main(
    host: str, port: int, clients: int, seconds: float, path: str, body: bytes
) -> dict[str, float]:
    """Returns requests per second, and the milliseconds of their 50th and 99th percentile."""
    head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    request = head.encode() + body
    start = time.perf_counter() + WARM_SECONDS
    asked = await asyncio.gather(
        *(client(host, port, request, start, start + seconds) for _ in range(clients))
    )
    took = [one for some in asked for one in some]
    cuts = statistics.quantiles(took, n=100)
    return {"rate": len(took) / seconds, "p50": 1e3 * cuts[49], "p99": 1e3 * cuts[98], "count": len(took)}


async def client(host: str, port: int, request: bytes, start: float, end: float) -> list[float]:
    """Returns the seconds of each answer that one connection got from `start` to `end`."""
    reader, writer = await asyncio.open_connection(host, port)
    took: list[float] = []
    began = time.perf_counter()
    while began < end:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode())
        size = head.lower().split(b"content-length:")[1].split(b"\r\n")[0]
        await reader.readexactly(int(size))
        now = time.perf_counter()
        if began >= start:
            took.append(now - began)
        began = now
    writer.close()
    return took


if __name__ == "__main__":
    place, number, many, length, target, text = sys.argv[1:]
    found = asyncio.run(main(place, int(number), int(many), float(length), target, text.encode()))
    print(json.dumps(found))
