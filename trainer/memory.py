"""How much memory is left, and what a part of the run took: so that what would not fit is refused in a line."""

import re
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from trainer.errors import UserError

_MEGABYTE, _GIGABYTE = 2**20, 1e9
_STATUS, _MEMINFO, _CGROUP = Path("/proc/self/status"), Path("/proc/meminfo"), Path("/sys/fs/cgroup")


@dataclass
class Cost:
    """What a fit took: seconds, megabytes of memory above what was in use before, and the settings it
    chose; `left_out` is the reason where it was not fitted.
    """

    seconds: float = 0.0
    memory_mb: float = 0.0
    chosen: Mapping[str, float] | None = None
    left_out: str = ""

    def then(self, other: "Cost") -> "Cost":
        """Returns the cost of this and then another."""
        most = max(self.memory_mb, other.memory_mb)
        return replace(self, seconds=self.seconds + other.seconds, memory_mb=most)


@contextmanager
def costing() -> Iterator[Cost]:
    """Yields a cost that is filled in at the end of the block, also where the block fails."""
    cost = Cost()
    before, start = _resident(restart=True), time.perf_counter()
    try:
        yield cost
    finally:
        cost.seconds = time.perf_counter() - start
        cost.memory_mb = max(0.0, (_resident() - before) / _MEGABYTE)


def require(size: float, what: str, advice: str) -> None:
    """Raises `UserError` where `what` needs `size` bytes and fewer are free; `advice` says what to change."""
    free = available()
    if free is not None and size > free:
        raise UserError(
            f"{what} needs {size / _GIGABYTE:.1f} GB of memory and {free / _GIGABYTE:.1f} GB are free; {advice}"
        )


def available() -> int | None:
    """Returns the bytes that this process may still take, as the system or its container limits it; None: unknown."""
    try:
        lines = _lines(_MEMINFO)
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    try:
        limit = int((_CGROUP / "memory.max").read_text(encoding="ascii"))
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        return max(0, min(free, limit - used + _cached_files()))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free


def _cached_files() -> int:
    """Returns the bytes that the container holds of files it read; they are given up when memory is asked for."""
    try:
        found = re.search(
            r"^inactive_file (\d+)$", (_CGROUP / "memory.stat").read_text(encoding="ascii"), re.MULTILINE
        )
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _resident(restart: bool = False) -> int:
    """Returns the peak of the process's memory in bytes; with `restart` the peak starts anew where Linux allows it."""
    try:
        if restart:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return int(_lines(_STATUS)["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _lines(path: Path) -> dict[str, str]:
    """Returns the values of a file of `name: value` lines."""
    text = path.read_text(encoding="ascii", errors="replace")
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
