"""Which Ray cluster an address means: one that was named or that started this process, never whichever happens to be found."""

import os
import socket
from pathlib import PurePath
from typing import NamedTuple
from urllib.parse import urlsplit

import grpc
import psutil
from ray._private import services

ANSWER_S = 5.0
FOUND_BY = "RAY_ADDRESS"
"""Environment variable that names a cluster."""
RAY, JOB_API = "Ray's own port", "the job API of a cluster"
_GREETING = b"GET /api/version HTTP/1.1\r\nHost: ray\r\nConnection: close\r\n\r\n"
_WHO = "/ray.rpc.NodeInfoGcsService/GetClusterId"
_SETTINGS = 4
"""Type of the HTTP/2 frame with which a gRPC server begins."""


class AddressError(RuntimeError):
    """No cluster, or not one cluster, is meant by an address. One line for the user."""


class Endpoint(NamedTuple):
    host: str
    port: int

    @classmethod
    def parse(cls, address: str) -> "Endpoint":
        """Raises ``ValueError`` for anything but ``host:port``, ``[IPv6]:port``, or a URL with both."""
        parts = urlsplit(address if "://" in address else f"//{address}")
        if not parts.hostname or not parts.port:
            raise ValueError("expected HOST:PORT")
        return cls(parts.hostname, parts.port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def cluster_at(address: str) -> str:
    """What to give Ray for ``fleet.address``: the address of a cluster that answers, in numbers.

    ``auto`` is the cluster whose node started this process (a job of the job API), else the one that ``RAY_ADDRESS`` names, else the
    only one with a node on this machine. Ray's own search takes any, or the one that was started last.

    Raises:
        AddressError: if there is none or more than one; it says what was found.
    """
    if address != "auto":
        return _checked(address, f"fleet.address={address}")
    own = [found for process in psutil.Process().parents() if (found := _cluster_of_node(process)) is not None]
    if own:
        return own[0]
    if (named := os.environ.get(FOUND_BY) or "auto") != "auto":
        return _checked(named, f"{FOUND_BY}={named} (fleet.address=auto)")
    running = running_here()
    if len(running) == 1:
        return running[0]
    found = (
        f"{len(running)} Ray clusters have a node here ({', '.join(running)})"
        if running
        else "no Ray cluster is running here"
    )
    raise AddressError(
        f"fleet.address=auto: {found}; say which with fleet.address=HOST:PORT, or leave it out for a Ray of the run's own"
    )


def running_here() -> list[str]:
    """Addresses of the clusters that have a node on this machine, but for those that only their own program can join."""
    nodes = {_cluster_of_node(process) for process in psutil.process_iter()} - {None}
    return sorted(
        node for node in nodes if node and not node.startswith("127.") and what_answers(Endpoint.parse(node)) == RAY
    )


def what_answers(endpoint: Endpoint) -> str:
    """``RAY`` where a cluster's own port answers, otherwise a few words about what does or why nothing does."""
    try:
        with socket.create_connection(endpoint, timeout=ANSWER_S) as connection:
            connection.sendall(_GREETING)
            answer = connection.recv(4096)
    except OSError as error:
        return f"nothing ({error.strerror or error})"
    if answer.startswith(b"HTTP/"):
        return JOB_API if b"ray_version" in answer else "a web server"
    if len(answer) < 4 or answer[3] != _SETTINGS:
        return "something that is not Ray"
    return RAY if _cluster_id(str(endpoint)) is not None else "a port that is not Ray's own, perhaps that of its client"


def _checked(address: str, option: str) -> str:
    expected = (
        "expected the address of a running Ray cluster, HOST:PORT with Ray's own port (6379 if not chosen otherwise)"
    )
    try:
        endpoint = Endpoint.parse(address)
    except ValueError:
        raise AddressError(f"{option}: {expected}") from None
    if address.startswith("ray://"):
        raise AddressError(
            f"{option}: {expected}; through Ray's client a run cannot be trained: use rtrl-submit target=ray_job"
        )
    found = what_answers(endpoint)
    if "://" in address or found != RAY:
        job = f"; to send a job there: rtrl-submit target=ray_job target.address=http://{endpoint}"
        raise AddressError(f"{option}: {expected}, but {found} answers there{job if found == JOB_API else ''}")
    return _as_ray_reaches_it(endpoint, option)


def _as_ray_reaches_it(endpoint: Endpoint, option: str) -> str:
    """The numbers behind the name, of the family that answers; where Ray would go elsewhere, the same cluster must be there."""
    with socket.create_connection(endpoint, timeout=ANSWER_S) as connection:
        numbers = Endpoint(connection.getpeername()[0], endpoint.port)
    # Ray takes a loopback address for this machine's outward one.
    taken_for = services.canonicalize_bootstrap_address(str(numbers))
    assert taken_for is not None
    if taken_for != str(numbers):
        there = Endpoint.parse(taken_for)
        if what_answers(there) != RAY or _cluster_id(taken_for) != _cluster_id(str(numbers)):
            raise AddressError(
                f"{option} is a Ray that only its own program can join: it does not listen at {taken_for}"
            )
    return str(numbers)


def _cluster_id(address: str) -> bytes | None:
    """A cluster's answer to who it is, empty if it wants a token first; ``None`` from a server that does not know the question."""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            return channel.unary_unary(_WHO)(b"", timeout=ANSWER_S)
        except grpc.RpcError as error:
            return None if error.code() is grpc.StatusCode.UNIMPLEMENTED else b""  # pyright: ignore[reportAttributeAccessIssue]


def _cluster_of_node(process: psutil.Process) -> str | None:
    """The cluster whose node this process is, if it is one."""
    try:
        command = process.cmdline()
    except psutil.Error:
        return None
    if not command or PurePath(command[0]).name != "raylet":
        return None
    return next((word.partition("=")[2] for word in command if word.startswith("--gcs-address=")), None)
