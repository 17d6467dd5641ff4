"""What is installed and working on this machine. Each check is a function that returns one finding and never raises."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from conf.env_schema import ENV_CONFIGS

SUITE_LIMIT_S = 120.0
FREE_DISK_GB = 5.0
SHARED_MEMORY_MB = 512

PLAY = """
import sys, numpy as np
from conf.env_schema import ENV_CONFIGS
from envs.base import Discrete, MissingDependency
from envs.registry import make_env
try:
    env = make_env(ENV_CONFIGS[sys.argv[1]](), 2, 1)
except MissingDependency as error:
    print(error); sys.exit(3)
env.reset()
actions = np.zeros(2, np.int64) if isinstance(env.spec.actions, Discrete) else np.zeros((2, env.spec.actions.size), np.float32)
for _ in range(10):
    env.step(actions)
try:
    picture = "picture " + "x".join(map(str, env.render(0).shape))
except NotImplementedError:
    picture = "no picture"
print(f"{env.spec.name}: reset, 10 steps, {picture}")
env.close()
"""


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    status: Literal["ok", "missing", "broken"]
    """``missing`` parts are optional; ``broken`` ones keep the program from working."""
    detail: str
    advice: str = ""


def examine() -> Iterator[Finding]:
    """All findings, one by one as they are made."""
    yield _python()
    yield _package("torch", "pip install -r requirements.lock", required=True)
    yield _cuda()
    yield _package("ray", "pip install 'ray[default]', or train with fleet=local", required=False)
    for suite in ENV_CONFIGS:
        yield suite_finding(suite)
    yield _dmlab()
    yield _shared_memory()
    yield _disk(Path.cwd())


def _python() -> Finding:
    return Finding("Python", "ok", f"{'.'.join(map(str, sys.version_info[:3]))} at {sys.prefix}")


def _package(name: str, advice: str, *, required: bool) -> Finding:
    try:
        return Finding(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "broken" if required else "missing", "not installed", advice)


def _cuda() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        return Finding("CUDA", "ok", names)
    advice = "training works without; with an NVIDIA GPU, install the CUDA build of the same torch version"
    return Finding("CUDA", "missing", f"this torch ({torch.__version__}) sees no device", advice)


def suite_finding(suite: str, limit_s: float = SUITE_LIMIT_S) -> Finding:
    """A real reset and ten steps, in a process of their own: an engine that crashes or hangs is a finding, not our end."""
    try:
        command = [sys.executable, "-c", PLAY, suite]
        result = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return Finding(f"env={suite}", "broken", f"no answer within {limit_s:g} s", "see docs/troubleshooting.md")
    output = [line for line in (result.stdout + result.stderr).splitlines() if line.strip()]
    last = output[-1].strip() if output else f"ended with status {result.returncode}"
    if result.returncode == 0:
        return Finding(f"env={suite}", "ok", result.stdout.strip().splitlines()[-1])
    if result.returncode == 3:
        return Finding(f"env={suite}", "missing", "its library is not installed", result.stdout.strip())
    return Finding(
        f"env={suite}", "broken", last, "make install; if that does not help, run the suite by itself to see why"
    )


def _dmlab() -> Finding:
    if importlib.util.find_spec("deepmind_lab") is None:
        advice = (
            "there is no wheel on any index: build one as python/pip_package of github.com/google-deepmind/lab says"
        )
        return Finding("DMLab module", "missing", "deepmind_lab is not installed", advice)
    return Finding("DMLab module", "ok", "deepmind_lab is importable")


def _shared_memory() -> Finding:
    path = Path("/dev/shm")
    if not path.is_dir():
        return Finding("shared memory", "ok", "this system has no /dev/shm; Ray uses files instead")
    free = shutil.disk_usage(path).free >> 20
    if free < SHARED_MEMORY_MB:
        advice = "start the container with a larger shm_size, or train with fleet=local"
        return Finding(
            "shared memory", "broken", f"{free} MiB free, Ray's object store needs {SHARED_MEMORY_MB}", advice
        )
    return Finding("shared memory", "ok", f"{free} MiB free")


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / 1e9
    if not os.access(folder, os.W_OK):
        return Finding("disk", "broken", f"{folder} cannot be written", "start in a folder of yours, or set run_dir")
    if free < FREE_DISK_GB:
        return Finding(
            "disk", "broken", f"{free:.1f} GB free", f"a run wants {FREE_DISK_GB:g} GB; free some or set run_dir"
        )
    return Finding("disk", "ok", f"{free:.0f} GB free")
