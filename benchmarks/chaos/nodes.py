"""A Ray cluster of several nodes on this machine, each of which can be killed, stopped, and cut off from the others.

Where we are root and have iproute2, every node but the first is in a network namespace of its own, behind a bridge; elsewhere all share
the loopback interface, and nothing can be cut.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

STORE_BYTES = 80_000_000
MARK = "r2c"
"""What our links and namespaces begin with; then comes the process that they are of."""
SYSTEM = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 5,
    "health_check_timeout_ms": 4000,
}
"""Of Ray: a node that has been silent for ten seconds is gone; its own half a minute is too long for so many of them."""
UP_S = 120.0
STARTED = b"Ray runtime started"
CORES = 2
"""That a node says it has."""


class NoNetwork(RuntimeError):
    """Nodes cannot have a network of their own here. One line."""


def ip(*words: str) -> str:
    """What it writes. Raises ``NoNetwork`` with what it says is wrong."""
    if shutil.which("ip") is None:
        raise NoNetwork("there is no iproute2")
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise NoNetwork(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


class Network:
    """A bridge with a namespace for each node behind it."""

    def __init__(self, nodes: Sequence[str]) -> None:
        """Raises ``NoNetwork`` if this machine or its owner does not let us."""
        self._mark = f"{MARK}{os.getpid()}"
        self._nodes = list(nodes)
        _remove_what_was_left()
        try:
            ip("link", "add", self._bridge, "type", "bridge")
            ip("addr", "add", f"{self.address(None)}/24", "dev", self._bridge)
            ip("link", "set", self._bridge, "up")
            for node in nodes:
                space, cable = self._space(node), self._cable(node)
                ip("netns", "add", space)
                ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
                ip("link", "set", cable, "master", self._bridge, "up")
                ip("-n", space, "addr", "add", f"{self.address(node)}/24", "dev", "eth0")
                ip("-n", space, "link", "set", "eth0", "up")
                ip("-n", space, "link", "set", "lo", "up")
        except NoNetwork:
            self.close()
            raise

    @property
    def _bridge(self) -> str:
        return f"{self._mark}b"

    def _space(self, node: str) -> str:
        return f"{self._mark}n{self._nodes.index(node)}"

    def _cable(self, node: str) -> str:
        return f"{self._mark}c{self._nodes.index(node)}"

    def address(self, node: str | None) -> str:
        """Of a node; ``None`` is the first, which is outside of all namespaces."""
        return f"10.213.{os.getpid() % 250}.{1 if node is None else 2 + self._nodes.index(node)}"

    def within(self, node: str) -> list[str]:
        """What a command begins with to be run on a node."""
        return ["ip", "netns", "exec", self._space(node)]

    def connect(self, node: str, is_connected: bool) -> None:
        ip("link", "set", self._cable(node), "up" if is_connected else "down")

    def delay(self, node: str, milliseconds: int) -> bool:
        """Of every packet to a node; 0 for none. Whether the kernel can do it."""
        verb = ["replace"] if milliseconds else ["del"]
        what = ["netem", "delay", f"{milliseconds}ms"] if milliseconds else []
        words = ["tc", "qdisc", *verb, "dev", self._cable(node), "root", *what]
        return shutil.which("tc") is not None and subprocess.run(words, capture_output=True).returncode == 0

    def close(self) -> None:
        for node in self._nodes:
            with suppress(NoNetwork):
                ip("link", "del", self._cable(node))
            with suppress(NoNetwork):
                ip("netns", "del", self._space(node))
        with suppress(NoNetwork):
            ip("link", "del", self._bridge)


def _remove_what_was_left() -> None:
    """Of campaigns that were killed."""
    words = [["link", *line.split()[1:2]] for line in ip("-o", "link").splitlines()]
    words += [["netns", *line.split()[:1]] for line in ip("netns").splitlines()]
    for kind, name in words:
        found = re.match(rf"{MARK}(\d+)[bcn]", name)
        if found and not psutil.pid_exists(int(found[1])):
            with suppress(NoNetwork):
                ip(kind, "del", found.string.partition("@")[0].rstrip(":"))


class Cluster:
    """Its first node has no cores: there are the driver and the learner.

    Args:
        environment: of all its processes.
        logs: folder that they write to, a file for each node.
    """

    def __init__(self, nodes: Sequence[str], environment: dict[str, str], logs: Path) -> None:
        self.nodes = tuple(nodes)
        self._folder = Path(tempfile.mkdtemp(prefix="r2c"))  # short: Ray's sockets lie in it
        self.environment = environment | {"RAY_TMPDIR": str(self._folder)}
        self._logs = logs
        self._logs.mkdir(parents=True, exist_ok=True)
        try:
            self.network: Network | None = Network(nodes)
            self.no_network = ""
        except NoNetwork as reason:
            self.network, self.no_network = None, str(reason)
        host = "127.0.0.1" if self.network is None else self.network.address(None)
        self.address = f"{host}:{_free_port(host)}"
        self._processes: dict[str | None, subprocess.Popen[bytes]] = {}
        self._said_before: dict[str | None, int] = {}
        """Length of each node's log when it was started last."""
        self._one_at_a_time = threading.Lock()
        """Nodes that start together on one machine take each other's ports for theirs."""

    def up(self) -> None:
        """Raises ``TimeoutError`` if its first node does not come."""
        self._start(
            None,
            *("--head", f"--port={self.address.rpartition(':')[2]}", "--num-cpus=0", "--include-dashboard=false"),
            *(f"--temp-dir={self._folder}", f"--system-config={json.dumps(SYSTEM)}"),
            f"--ray-client-server-port={_free_port(self.address.rpartition(':')[0])}",
        )
        _wait_until(lambda: self._has_started(None), "the first node")
        for node in self.nodes:
            self.renew(node)

    def renew(self, node: str) -> None:
        """Has a node that is not there join. Raises ``TimeoutError`` if it does not come."""
        with self._one_at_a_time:
            _wait_until(lambda: self._joins(node), f"node {node}")

    def _joins(self, node: str) -> bool:
        """Whether it is there; if it has not begun to start, or has given up, it begins."""
        starter = self._processes.get(node)
        has_started = starter is not None and self._has_started(node)
        if has_started and self.raylet(node) is not None:
            return True
        if starter is None or starter.poll() is not None or has_started:
            self.kill(node)
            self._start(node, f"--address={self.address}", f"--num-cpus={CORES}")
        return False

    def _log(self, node: str | None) -> Path:
        return self._logs / f"ray-{node or 'head'}.log"

    def _has_started(self, node: str | None) -> bool:
        with self._log(node).open("rb") as log:
            log.seek(self._said_before[node])
            return STARTED in log.read()

    def _start(self, node: str | None, *words: str) -> None:
        host = "127.0.0.1" if self.network is None else self.network.address(node)
        prefix = [] if self.network is None or node is None else self.network.within(node)
        command = [
            *(*prefix, str(Path(sys.executable).with_name("ray")), "start", *words, f"--node-ip-address={host}"),
            *("--num-gpus=0", f"--object-store-memory={STORE_BYTES}", "--disable-usage-stats", "--block"),
            "--dashboard-agent-listen-port=0",
        ]
        with self._log(node).open("ab") as log:
            self._said_before[node] = log.tell()
            self._processes[node] = subprocess.Popen(
                command,
                env=self.environment,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def raylet(self, node: str) -> psutil.Process | None:
        return next((process for process in self._of(node) if _name(process) == "raylet"), None)

    def kill(self, node: str) -> bool:
        """Ends a node as a machine that loses its power does; whether it was there. Its processes go with it."""
        of_node = self._of(node)
        for process in of_node:
            with suppress(psutil.Error):
                process.kill()
        starter = self._processes.pop(node, None)
        if starter is not None:
            starter.wait()
        return bool(of_node)

    def processes(self, title: str) -> list[psutil.Process]:
        """Of ours on all nodes, by what Ray calls them."""
        found = []
        for node in (None, *self.nodes):
            for process in self._of(node):
                with suppress(psutil.Error):
                    if (process.cmdline() or [""])[0].startswith(f"ray::{title}"):
                        found.append(process)
        return found

    def all_processes(self) -> list[psutil.Process]:
        return [process for node in (None, *self.nodes) for process in self._of(node)]

    def _of(self, node: str | None) -> list[psutil.Process]:
        starter = self._processes.get(node)
        if starter is None:
            return []
        try:
            root = psutil.Process(starter.pid)
            return [root, *root.children(recursive=True)]
        except psutil.Error:
            return []

    def close(self) -> None:
        for node in (*self.nodes, None):
            for process in self._of(node):
                with suppress(psutil.Error):
                    process.send_signal(signal.SIGKILL)
            if (starter := self._processes.get(node)) is not None:
                starter.wait()
        if self.network is not None:
            self.network.close()
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def cluster(nodes: Sequence[str], environment: dict[str, str], logs: Path) -> Iterator[Cluster]:
    made = Cluster(nodes, environment, logs)
    try:
        made.up()
        yield made
    finally:
        made.close()


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return ""


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def _wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + UP_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} is not up after {UP_S:g} s")
        time.sleep(0.1)
