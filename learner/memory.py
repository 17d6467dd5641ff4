"""How much memory a process may have: the machine's, or what a container or a job's control group leaves of it."""

from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def total_memory(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Bytes. Limits are those of the process's own control group and of all above it, of either version of them."""
    limits = [psutil.virtual_memory().total]
    for root, own, file in _groups(cgroups, membership):
        for group in (own, *own.parents):
            if group == root.parent:
                break
            limits += _limit(group / file)
    return min(limits)


def _groups(cgroups: Path, membership: Path) -> list[tuple[Path, Path, str]]:
    try:
        lines = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        return []
    groups: list[tuple[Path, Path, str]] = []
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if not controllers:
            groups.append((cgroups, cgroups / path.lstrip("/"), "memory.max"))
        elif "memory" in controllers.split(","):
            root = cgroups / "memory"
            groups.append((root, root / path.lstrip("/"), "memory.limit_in_bytes"))
    return groups


def _limit(file: Path) -> list[int]:
    """None where there is no such file, or ``max`` in it."""
    try:
        text = file.read_text().strip()
    except OSError:
        return []
    return [int(text)] if text.isdecimal() else []
