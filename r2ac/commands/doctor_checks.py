"""What is installed and working on this machine. Each check is a function that returns one finding and never raises.

Whatever loads native code is tried in a process of its own with a time limit: one that crashes or hangs is a finding, not our end.
"""

import importlib.metadata
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from conf.env_schema import ENV_CONFIGS
from envs.suite import DoctorCheck, Finding

LIMIT_S = 120.0
FREE_DISK_GB = 5.0
SHARED_MEMORY_MB = 512
MISSING = 3
"""Exit status of a trial whose library is not installed."""

REINSTALL = "make install; if that does not help, run the suite by itself to see why"

PLAY = f"""
import sys
from conf.knobs import ConfigError
from conf.load import load_train
from envs.base import MissingDependency, UnknownEnvironment
from envs.registry import make_env
try:
    env = make_env(load_train(sys.argv[1:]).env, 2, 1, pictures=True)
    env.reset()
except MissingDependency as error:
    print(error); sys.exit({MISSING})
except (ConfigError, UnknownEnvironment) as error:
    sys.exit(str(error))
actions = env.spec.actions.zeros(2)
for _ in range(10):
    env.step(actions)
try:
    picture = "picture " + "x".join(map(str, env.render(0).shape))
except NotImplementedError:
    picture = "no picture"
print(f"{{env.spec.name}}: reset, 10 steps, {{picture}}")
env.close()
"""

MULTIPLY = f"""
import sys, torch
if sys.argv[1] == "cuda" and not torch.cuda.is_available():
    print(f"this torch ({{torch.__version__}}) sees no device"); sys.exit({MISSING})
weights = torch.ones(8, 8, device=sys.argv[1], requires_grad=True)
(weights @ weights).sum().backward()
assert weights.grad is not None and weights.grad.sum().item() == 1024
names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
print(", ".join(names) if sys.argv[1] == "cuda" else f"{{torch.__version__}}: a product and its gradient")
"""

RAY = """
import logging, os
os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")
import ray
ray.init(
    address="local", num_cpus=1, include_dashboard=False, object_store_memory=80_000_000,
    log_to_driver=False, logging_level=logging.ERROR, _node_ip_address="127.0.0.1",
)
assert ray.get(ray.remote(lambda: 6 * 7).remote()) == 42
print(f"{ray.__version__}: a local cluster, one task")
ray.shutdown()
"""


def examine(words: Sequence[str] = ()) -> Iterator[Finding]:
    """All findings, one by one as they are made.

    Args:
        words: ``env=SUITE/NAME`` with ``env.OPTION=VALUE`` examines that environment instead of every suite of ours; options alone are
            those that a suite's own check takes (``DoctorCheck.options``).
    """
    yield _python()
    yield _torch()
    yield _cuda()
    yield _ray()
    yield from _environments(words)
    yield _video()
    yield _shared_memory()
    yield _disk(Path.cwd())


def _python() -> Finding:
    return Finding("Python", "ok", f"{'.'.join(map(str, sys.version_info[:3]))} at {sys.prefix}")


def _torch() -> Finding:
    trial = attempt(MULTIPLY, "cpu")
    return trial.finding("torch", "pip install -r requirements-torch.lock")


def _cuda() -> Finding:
    trial = attempt(MULTIPLY, "cuda")
    if trial.status == MISSING:
        advice = "training works without; with an NVIDIA GPU, install the CUDA build of the same torch version"
        return Finding("CUDA", "missing", trial.last_line, advice)
    return trial.finding(
        "CUDA", "the driver is too old for this torch, or the device is in use; training works with cpu"
    )


def _ray() -> Finding:
    if importlib.util.find_spec("ray") is None:
        return Finding("Ray", "missing", "not installed", "pip install 'ray[default]', or train with fleet=local")
    return attempt(RAY).finding("Ray", "train with fleet=local meanwhile; see docs/troubleshooting.md")


def _environments(words: Sequence[str]) -> Iterator[Finding]:
    options = [word for word in words if word.startswith("env.")]
    said = {key.removeprefix("env."): value for key, _, value in (word.partition("=") for word in options)}
    named = [word.removeprefix("env=") for word in words if word.startswith("env=")]
    for env in named:
        yield (tried := suite_finding(env, options))
        if tried.status != "broken":
            yield from _more(env.partition("/")[0], said)
    for suite in () if named else ENV_CONFIGS:
        if _check_of(suite).unasked:
            yield suite_finding(suite)
            yield from _more(suite, said)


def _more(suite: str, said: Mapping[str, str]) -> Iterable[Finding]:
    def play(name: str, options: Mapping[str, str]) -> Finding:
        return suite_finding(f"{suite}/{name}", [f"env.{option}={value}" for option, value in options.items()])

    return _check_of(suite).more(play, said)


def suite_finding(env: str, words: Sequence[str] = (), limit_s: float = LIMIT_S) -> Finding:
    """A real reset and ten steps of ``SUITE`` or ``SUITE/NAME``, with further words for its options."""
    suite = env.partition("/")[0]
    trial = attempt(PLAY, f"env={env}", *words, limit_s=limit_s)
    if trial.status == MISSING:
        return Finding(f"env={suite}", "missing", "its library is not installed or cannot be loaded", trial.last_line)
    killed_itself = suite not in ENV_CONFIGS and (trial.status is None or trial.status < 0)
    check = DoctorCheck() if killed_itself else _check_of(suite)
    general = REINSTALL if suite in ENV_CONFIGS else "run it by itself to see why"
    return trial.finding(f"env={suite}", check.advice or general)


def _check_of(suite: str) -> DoctorCheck:
    """The suite's own, or the general one where what it is in cannot be imported; to try it says why."""
    try:
        from envs.registry import find_suite  # here, because it imports numpy, and that may be what is broken

        return find_suite(suite).check
    except Exception:  # whatever is
        return DoctorCheck()


def suite_options() -> dict[str, str]:
    """``env.OPTION`` -> ``VALUE  what it is for``: what the checks of our suites take."""
    return {f"env.{option}": meaning for suite in ENV_CONFIGS for option, meaning in _check_of(suite).options.items()}


def _video() -> Finding:
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        return Finding("mp4", "missing", "rtrl-play writes gif only", "pip install imageio-ffmpeg")
    return Finding("mp4", "ok", f"imageio-ffmpeg {importlib.metadata.version('imageio-ffmpeg')}")


@dataclass(frozen=True, slots=True)
class Trial:
    """How a program of ours ended."""

    status: int | None
    """``None``: not within its time."""
    last_line: str

    def finding(self, name: str, advice: str) -> Finding:
        """Anything but a clean end is broken."""
        return (
            Finding(name, "ok", self.last_line) if self.status == 0 else Finding(name, "broken", self.last_line, advice)
        )


def attempt(program: str, *arguments: str, limit_s: float = LIMIT_S) -> Trial:
    """Runs a program with this Python and takes its whole process group down at its end, engines and servers included.

    Its output goes to files: a pipe would stay open for as long as a grandchild that outlives it.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return Trial(None, f"no answer within {limit_s:g} s")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said = _lines(output) if status in (0, MISSING) else _lines(output) + _lines(errors)
    return Trial(status, said[-1] if said else f"ended with status {status}")


def _lines(file: IO[str]) -> list[str]:
    file.seek(0)
    return [line.strip() for line in file.read().splitlines() if line.strip()]


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
