"""Joins or starts Ray for a run, and leaves it as it was found."""

import logging
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private import parameter, ray_constants, services, utils
from ray._private.node import Node
from ray.exceptions import AuthenticationError

from actors.fleet import FleetError
from actors.ray_fleet import PROCESS_ENVIRONMENT
from conf.schema import TrainConfig
from r2ac.cluster.addresses import AddressError, cluster_at

STORE_BYTES, STORE_BYTES_PER_ACTOR = 512 * 1024**2, 64 * 1024**2
"""Object store of a local Ray, at the least."""
SHARED_MEMORY = Path("/dev/shm")


@contextmanager
def ray_cluster(config: TrainConfig, num_actors: int, contribution_bytes: int = 0) -> Iterator[None]:
    """Ray for the length of a run: the cluster at ``fleet.address``, or one of our own on this machine, loopback only.

    Args:
        contribution_bytes: about the size of what an actor ships at a time.

    Raises:
        FleetError: if the cluster does not answer, or this machine cannot start one: too little shared memory, a port in use.
    """
    # Nothing is sent anywhere unless asked for; and a token file left by another Ray of this user must not lock us out. A Ray of
    # our own listens on the loopback interface, a cluster's job finds RAY_AUTH_MODE=token in its environment.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_metrics_report_interval_ms", "2000")
    # Of a failed unroll, the envelope says what happened in one line; its gradient would say it again, with a traceback.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    # Ray's own 15 would leave our actors a few per cent of a core beside any other program of this machine.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # A process for each core, started before it is known what for, is one too many wherever it is not an actor.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    if ray.is_initialized():  # a test's cluster, or a notebook's
        yield
        return
    if config.fleet.address is not None:
        _join(config.fleet.address)
    else:
        _start(config, num_actors, contribution_bytes)
    try:
        yield
    finally:
        ray.shutdown()


def _join(address: str) -> None:
    try:
        with _our_signals():
            ray.init(address=cluster_at(address), log_to_driver=False, logging_level=logging.ERROR)
    except AddressError as error:
        raise FleetError(str(error)) from None
    except (OSError, RuntimeError, ValueError, AuthenticationError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        advice = (
            "install the same versions here and there"
            if "ersion mismatch" in said
            else "a cluster with a token wants RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH; see rtrl-doctor"
        )
        raise FleetError(f"fleet.address={address} cannot be joined: {said}; {advice}") from None


def _start(config: TrainConfig, num_actors: int, contribution_bytes: int) -> None:
    # Of each actor one is being written, as many as are in flight may have been finished, one waits at the learner, one is there.
    of_an_actor = (3 + config.fleet.in_flight) * contribution_bytes
    store = max(STORE_BYTES, num_actors * max(STORE_BYTES_PER_ACTOR, of_an_actor))
    if (asked := config.fleet.object_store_bytes) is not None:
        if asked < (least := 2 * num_actors * contribution_bytes):
            raise FleetError(
                f"fleet.object_store_bytes={asked} has no room for two contributions of each actor, {contribution_bytes} bytes each: "
                f"set it to {least} at the least, leave it open (null), or lower actors.unroll or actors.num_envs"
            )
        store = asked
    if SHARED_MEMORY.is_dir() and (free := shutil.disk_usage(SHARED_MEMORY).free) < store:
        raise FleetError(
            f"Ray's object store needs {store >> 20} MiB of shared memory, but {SHARED_MEMORY} has {free >> 20} MiB free: "
            f"start the container with a larger shm_size, or set fleet.object_store_bytes (or use fleet=local)"
        )
    if config.fleet.metrics_port is not None:
        _require_free("fleet.metrics_port", config.fleet.metrics_port)
    try:
        with (
            _nothing_left_of_a_failure(),
            _loopback_only(),
            _inherited(PROCESS_ENVIRONMENT),
            _only_what_is_used(config.fleet.dashboard),
            _own_session(),
            _our_signals(),
        ):
            ray.init(
                address="local",
                include_dashboard=config.fleet.dashboard,
                object_store_memory=store,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _metrics_export_port=config.fleet.metrics_port,
            )
    except Exception as error:  # it has no type for this
        long = "; its folder for sockets has too long a name: set RAY_TMPDIR to a short one, such as /tmp"
        why = _reason(error) + (long if "AF_UNIX" in str(error) else "")
        raise FleetError(
            f"Ray could not be started on this machine ({why}): see rtrl-doctor, or use fleet=local"
        ) from None


@contextmanager
def _nothing_left_of_a_failure() -> Iterator[None]:
    """What is started inside ends if the start is interrupted or fails.

    Ray ends its own processes then, but not what these have started a moment ago: without their parent, its agents would go on for
    minutes. Processes that are stopped start no others while they are looked for.
    """
    this = psutil.Process()
    before = set(this.children())
    try:
        yield
    except BaseException:
        direct = [process for process in this.children() if process not in before]
        below: list[psutil.Process] = []
        for process in direct:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
                below += process.children(recursive=True)
        for process in [*direct, *below]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        raise


@contextmanager
def _loopback_only() -> Iterator[None]:
    """A Ray that is started inside listens on 127.0.0.1 alone.

    Told that address, it takes the machine's outward one all the same; only where it cannot be part of a cluster it does not. The
    processes that it starts learn that from the environment, this one had read it before.
    """
    before, variable = ray_constants.ENABLE_RAY_CLUSTER, ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        with _inherited({variable: "0"}):
            yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _only_what_is_used(dashboard: bool) -> Iterator[None]:
    """A Ray that is started inside has no processes that do nothing for a run of a fixed size on one machine.

    They are the autoscaler's monitor, the one that sends log lines to the driver, and, without a dashboard, its server. ``ray.init``
    does not pass on the options by which Ray's own tools leave them out.
    """
    parameters, start_server = parameter.RayParams, Node.start_api_server
    left_out: dict[str, Any] = {"no_monitor": True, "include_log_monitor": False}
    parameter.RayParams = partial(parameters, **left_out)
    if not dashboard:
        Node.start_api_server = lambda *_, **__: None
    try:
        yield
    finally:
        parameter.RayParams, Node.start_api_server = parameters, start_server


@contextmanager
def _inherited(variables: Mapping[str, str]) -> Iterator[None]:
    """Processes that are started inside find these variables in their environment."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _own_session() -> Iterator[None]:
    """A Ray that is started inside does not hear what is sent to this process's group, as a terminal, ``timeout`` and batch systems
    do: the run needs it to save, and ends it itself; if the run is killed, Ray's processes go with it. There is no option for this.
    """

    class Detached(services.ConsolePopen):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, start_new_session=True, **options)

    before = services.ConsolePopen
    services.ConsolePopen = Detached
    try:
        yield
    finally:
        services.ConsolePopen = before


@contextmanager
def _our_signals() -> Iterator[None]:
    """A Ray that is started or joined inside leaves SIGTERM alone.

    Its Python part would make it an exit without a checkpoint; its C++ part prints a stack, and aborts at the second one.
    """
    before, handler = utils.set_sigterm_handler, signal.getsignal(signal.SIGTERM)
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = before
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # again: Python still has it, the process does not


def _require_free(option: str, port: int) -> None:
    """Raises ``FleetError`` if another program listens on the port: Ray itself would try for half a minute and say less."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was in use a moment ago is free
        try:
            probe.bind(("", port))
        except OSError as error:
            raise FleetError(
                f"{option}={port} cannot be used on this machine ({error.strerror}): choose another"
            ) from None


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
