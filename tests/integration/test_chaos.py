"""Faults of every kind at once, on a cluster of several nodes: what ``make chaos`` does for an hour, for ten minutes."""

from pathlib import Path

import pytest

from benchmarks.chaos.audit import KEPT
from benchmarks.chaos.campaign import run
from benchmarks.chaos.faults import FAULTS

MINUTES = 10


@pytest.mark.soak
@pytest.mark.timeout(2 * 60 * MINUTES)
def test_no_promise_is_broken_by_faults_of_every_kind(tmp_path: Path) -> None:
    report = run(tmp_path / "campaign", MINUTES, 1, [])
    assert report.wrong == []
    assert report.total >= 100
    assert report.counts[KEPT] > 1000
    possible = {fault.name for fault in FAULTS} - report.not_here.keys()
    assert len(report.faults.keys() & possible) >= len(possible) - 6  # rare ones may not have had their turn
