"""Ten minutes of training: memory does not grow and the object store stays bounded (`make test-long`)."""

import pytest

from benchmarks import memory


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_long_run_does_not_grow():
    results = {result.name: result for result in memory.run(seconds=100)}
    for name in ("memory/object_store_per_actor", "memory/actor_growth"):
        assert results[name].met, results[name]
