"""Programs that learn Breakout with a recurrent network, one at a time and in turns on this whole machine: steps and return per minute.

    python -m benchmarks peers [seconds=S]        all of them, S of training each (an hour with the default, 600)

Each peer is installed into an environment of its own (``.peers/NAME``) from the package index, pinned to the version that was measured.
Its games are watched below all of its wrappers (``programs/games.py``): a step is four frames, a return is the raw score of a whole game.
CPU time is that of all processes, from the first step on. What docs/results/data/peers.json has is replaced run by run.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.learning import RESULTS
from benchmarks.measurement import Result, informs
from benchmarks.peers.store import PeerRun, Runs, figures, write
from benchmarks.peers.watch import Games, Processes, Rows, marked, watch
from r2ac.training.build import available_cores

PROGRAMS = Path(__file__).parent / "programs"
FOLDER = Path(__file__).parents[2] / ".peers"
TORCH = "torch==2.13.0"
SEEDS = (1, 2, 3)
SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    environment: str
    """Folder of what is installed for it; several may share one."""
    requirements: tuple[str, ...]
    program: str
    words: tuple[str, ...]
    """``{cores}`` and ``{seed}`` are replaced."""


SAMPLE_FACTORY = (TORCH, "sample-factory==2.1.1", "ale-py==0.10.1")
"""Its own extra for Atari asks for an ale-py without games."""
RNN = ("--use_rnn=True", "--rnn_type=lstm", "--rnn_size=256", "--recurrence=-1", "--seed={seed}")
PEERS: tuple[Peer, ...] = (
    Peer("make train", "", (), "ours.py", ("{seed}",)),
    Peer("Sample Factory, APPO, LSTM", "sample_factory", SAMPLE_FACTORY, "appo.py", RNN),
    Peer(
        "Sample Factory, APPO, LSTM, asynchronous, unrolls of 32, one epoch",
        "sample_factory",
        SAMPLE_FACTORY,
        "appo.py",
        (
            *RNN,
            *("--rollout=32", "--num_epochs=1", "--num_batches_per_epoch=1", "--async_rl=True", "--with_vtrace=True"),
            *("--num_workers={cores}", "--num_envs_per_worker=8", "--worker_num_splits=2", "--batch_size=512"),
        ),
    ),
    Peer(
        "RLlib, IMPALA, LSTM",
        "rllib",
        (TORCH, "ray[rllib]==2.60.0", "gymnasium==1.2.2", "ale-py==0.12.1", "opencv-python-headless==5.0.0.93"),
        "impala.py",
        ("{cores}", "5", "256"),
    ),
    Peer(
        "EnvPool, PPO, LSTM",
        "envpool",
        (TORCH, "envpool==1.2.5", "gymnasium==1.4.0", "numpy==2.4.6"),
        "envpool_ppo.py",
        ("{seed}",),
    ),
)


def run(seconds: float) -> Iterator[Result]:
    """Raises ``RuntimeError`` for a peer that cannot be installed or does not start, after all that can were measured."""
    seconds = SECONDS if seconds == 14.0 else seconds  # the default of other groups
    runs, failures = Runs(RESULTS / "data" / "peers.json"), []
    for seed in SEEDS:
        for peer in PEERS:
            try:
                found = measured(peer, seed, seconds)
            except RuntimeError as error:
                failures.append(f"{peer.name}: {error}")
                print(failures[-1], file=sys.stderr, flush=True)
                continue
            runs.add(found)
            write(runs, RESULTS)
    setting = f"Breakout, whole machine of {available_cores()} cores, one program at a time, {seconds:.0f} s each"
    for name, values in figures(runs).items():
        for what, (value, unit) in values.items():
            yield informs(f"peers/{name}: {what}", value, unit, setting)
    if failures:
        raise RuntimeError("; ".join(failures))


def measured(peer: Peer, seed: int, seconds: float) -> PeerRun:
    """One run from its start. Raises ``RuntimeError`` if it cannot be."""
    python = installed(peer)
    folder = FOLDER / "runs" / f"{peer.program.removesuffix('.py')}_{seed}_{time.time_ns()}"
    folder.mkdir(parents=True)
    mark = folder.name
    processes = Processes(mark)
    words = [word.format(cores=available_cores(), seed=seed) for word in peer.words]
    ours = not peer.environment
    environment: dict[str, Any] = marked(mark)
    if not ours:
        environment.pop("PYTHONPATH", None)
    log = folder / "log"
    with log.open("wb") as output:
        subprocess.Popen(
            [python, str(PROGRAMS / peer.program), str(folder), *words],
            env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            seen = watch(processes, Rows(folder) if ours else Games(folder), seconds)
        except RuntimeError as error:
            lines = log.read_text(errors="replace").strip().splitlines()
            raise RuntimeError(f"{error}; {' '.join(lines[-1:])[:300]} ({log})") from None
        finally:
            processes.end()
    return PeerRun(peer.name, seed, available_cores(), **asdict(seen))


def installed(peer: Peer) -> str:
    """The interpreter of its environment, which is made if it is not there."""
    if not peer.environment:
        return sys.executable
    folder = FOLDER / peer.environment
    done = folder / "installed"
    if not done.exists():
        print(f"installing {', '.join(peer.requirements)} into {folder}", flush=True)
        python = str(folder / "bin" / "python")
        for command in (
            [sys.executable, "-m", "venv", str(folder)],
            [python, "-m", "pip", "install", "-q", *peer.requirements],
        ):
            result = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
            if result.returncode:
                raise RuntimeError(f"cannot be installed: {' '.join(result.stderr.strip().splitlines()[-1:])}")
        done.touch()
    return str(folder / "bin" / "python")
