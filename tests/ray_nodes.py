"""A Ray cluster of several nodes on this machine, which come and go when they are told to."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from patience import patience

NODES = """
import json, sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={
    "num_cpus": 0, "num_gpus": 0, "object_store_memory": 80_000_000, "include_dashboard": False,
    "_system_config": {
        "health_check_initial_delay_ms": 0, "health_check_period_ms": 500,
        "health_check_failure_threshold": 3, "health_check_timeout_ms": int(sys.argv[1]),
    },
})
nodes = {}
print(json.dumps(cluster.address), flush=True)
for line in sys.stdin:
    name, options = json.loads(line)
    if name in nodes:
        cluster.remove_node(nodes.pop(name), allow_graceful=False)
    if options is not None:
        nodes[name] = cluster.add_node(object_store_memory=80_000_000, **options)
    print("true", flush=True)
cluster.shutdown()
"""


class Nodes:
    """A cluster in a process of its own, because Ray's settings are a process's. Its head has no cores."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        """Of who joins it, too."""
        command = [sys.executable, "-c", NODES, f"{patience(1000):.0f}"]  # a slow node is not a lost one
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.address: str = self._answer()

    def add(self, name: str, **options: Any) -> None:
        """A node joins; one of this name that is there is killed first."""
        self._tell(name, options)

    def remove(self, name: str) -> None:
        """Kills a node; none takes its place."""
        self._tell(name, None)

    def _tell(self, name: str, options: dict[str, Any] | None) -> None:
        assert self.process.stdin is not None
        print(json.dumps([name, options]), file=self.process.stdin, flush=True)
        self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(('"', "true")):
                return json.loads(line)
        raise AssertionError("the cluster ended")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(patience(30))
        except subprocess.TimeoutExpired:
            self.process.kill()


@contextmanager
def cluster(**environment: str) -> Iterator[Nodes]:
    """
    Args:
        environment: variables of the cluster's processes, and of those of who joins it.
    """
    folder = tempfile.mkdtemp(prefix="r2ac")  # short: Ray's sockets lie in it
    ours = {"RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0"}
    nodes = Nodes({name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | ours | environment)
    with nodes.process:
        yield nodes
        nodes.close()
    shutil.rmtree(folder, ignore_errors=True)
