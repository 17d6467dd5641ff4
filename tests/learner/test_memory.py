"""How much memory there is where a container or a job has less than its machine."""

from pathlib import Path

import psutil
import pytest

from learner.memory import total_memory


@pytest.mark.parametrize(
    ("membership", "limits", "expected"),
    [
        ("0::/", {"memory.max": "1000"}, 1000),
        ("0::/job/step", {"job/memory.max": "700", "job/step/memory.max": "max"}, 700),
        ("0::/job/step", {"memory.max": "900", "job/memory.max": "700", "job/step/memory.max": "600"}, 600),
        ("3:cpu:/\n5:memory:/job", {"memory/job/memory.limit_in_bytes": "500"}, 500),
        ("3:cpu,memory:/gone", {"memory/memory.limit_in_bytes": "400"}, 400),
        ("0::/", {}, None),
        ("0::/", {"memory.max": "max"}, None),
        (None, {"memory.max": "1000"}, None),
    ],
)
def test_the_smallest_limit_above_a_process_counts(
    membership: str | None, limits: dict[str, str], expected: int | None, tmp_path: Path
):
    if membership is not None:
        (tmp_path / "cgroup").write_text(membership + "\n")
    for name, limit in limits.items():
        file = tmp_path / "fs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(limit + "\n")
    found = total_memory(tmp_path / "fs", tmp_path / "cgroup")
    assert found == (psutil.virtual_memory().total if expected is None else expected)


def test_a_process_of_this_machine_has_some():
    assert 0 < total_memory() <= psutil.virtual_memory().total
