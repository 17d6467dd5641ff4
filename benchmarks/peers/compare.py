"""Programs that learn Breakout with a recurrent network, installed, run one at a time on this whole machine, and watched."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.measurement import NotMeasured
from benchmarks.peers.store import PeerRun
from benchmarks.peers.watch import Counted, GamesOf, Processes, RowsOf, marked, watch
from r2ac.training.build import available_cores

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"
FOLDER = ROOT / ".peers"
TORCH = "torch==2.13.0"


@dataclass(frozen=True, slots=True)
class Peer:
    key: str
    name: str
    requirements: tuple[str, ...]
    """What is installed for it; none is this program itself."""
    words: tuple[str, ...]
    """Arguments of the interpreter, in which {folder}, {seed}, {cores} and {programs} are replaced."""
    counted: Callable[[Path], Counted] = GamesOf

    @property
    def environment(self) -> str:
        """Folder of what is installed; peers of the same name before a colon share one."""
        return self.key.partition(":")[0]


TRAIN = ("-m", "r2ac.commands.train", "run_dir={folder}", "seed={seed}", "logging=quiet", "logging.interval_s=5")
SAMPLE_FACTORY = (TORCH, "sample-factory==2.1.1", "ale-py==0.10.1")
"""Its own extra for Atari asks for an ale-py without games."""
APPO = ("{programs}/appo.py", "{folder}", "--seed={seed}", "--use_rnn=True", "--rnn_type=lstm", "--rnn_size=256")
PEERS: tuple[Peer, ...] = (
    Peer("train", "`make train`", (), TRAIN, RowsOf),
    Peer("train:nature", "`make train ARGS=network=nature`", (), (*TRAIN, "network=nature"), RowsOf),
    Peer(
        "sample_factory",
        "Sample Factory 2.1.1: APPO, its defaults for Atari, LSTM",
        SAMPLE_FACTORY,
        (*APPO, "--recurrence=-1"),
    ),
    Peer(
        "sample_factory:shape",
        "Sample Factory 2.1.1: APPO at our shape: asynchronous, unrolls of 32, one epoch",
        SAMPLE_FACTORY,
        (
            *(*APPO, "--recurrence=-1", "--rollout=32", "--num_epochs=1", "--num_batches_per_epoch=1"),
            *("--async_rl=True", "--num_workers={cores}", "--num_envs_per_worker=8", "--worker_num_splits=2"),
            "--batch_size=256",  # its V-trace ends its learner: AttributeError at the first summary
        ),
    ),
    Peer(
        "rllib",
        "RLlib 2.60.0: IMPALA, LSTM",
        (TORCH, "ray[rllib]==2.60.0", "gymnasium==1.2.2", "ale-py==0.12.1", "opencv-python-headless==5.0.0.93"),
        ("{programs}/impala.py", "{folder}", "{seed}", "{cores}", "5", "256"),
    ),
    Peer(
        "envpool",
        "EnvPool 1.2.5: PPO, LSTM, in the manner of CleanRL",
        (TORCH, "envpool==1.2.5", "gymnasium==1.4.0", "numpy==2.4.6"),
        ("{programs}/envpool_ppo.py", "{folder}", "{seed}"),
    ),
)


def measured(peer: Peer, seed: int, seconds: float) -> PeerRun:
    """One run from its start. Raises ``NotMeasured`` if the peer cannot be installed, does not start or ends by itself."""
    python = installed(peer)
    folder = FOLDER / "runs" / f"{peer.key.replace(':', '_')}_{seed}_{time.time_ns()}"
    folder.mkdir(parents=True)
    values = {"folder": folder / "run", "seed": seed, "cores": available_cores(), "programs": PROGRAMS}
    mark = folder.name
    environment = marked(mark)
    if peer.requirements:
        environment.pop("PYTHONPATH", None)  # what is ours is not theirs
    processes, log = Processes(mark), folder / "log"
    with log.open("wb") as output:
        program = subprocess.Popen(
            [python, *(word.format(**values) for word in peer.words)],
            cwd=ROOT, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            seen = watch(processes, peer.counted(folder / "run"), seconds)
        except NotMeasured as error:
            last = " ".join(log.read_text(errors="replace").strip().splitlines()[-1:])
            raise NotMeasured(f"{peer.key}: {error}; {last[:300]} ({log})") from None
        finally:
            processes.end()
            program.wait()
    return PeerRun(peer.key, seed, available_cores(), **asdict(seen))


def installed(peer: Peer) -> str:
    """The interpreter of its environment, which is made from the package index if it is not there.

    Raises ``NotMeasured`` with what pip said.
    """
    if not peer.requirements:
        return sys.executable
    folder = FOLDER / peer.environment
    python, done = str(folder / "bin" / "python"), folder / "installed"
    wanted = "\n".join(peer.requirements)
    if done.is_file() and done.read_text() == wanted:
        return python
    print(f"installing {', '.join(peer.requirements)} into {folder}", flush=True)
    commands = (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [python, "-m", "pip", "install", "-q", *peer.requirements],
    )
    for command in commands:
        result = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
        if result.returncode:
            said = " ".join(result.stderr.strip().splitlines()[-1:])
            raise NotMeasured(f"{peer.key}: cannot be installed: {said}")
    done.write_text(wanted)
    return python
