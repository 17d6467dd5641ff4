"""``make train`` beside what a user may take instead: Sample Factory, RLlib, and PPO on EnvPool, all with a recurrent network on Breakout.

    python -m benchmarks.peers [run|publish] [PEER ...] [seeds=1,2,3] [minutes=M]

Peers are installed from the package index into environments of their own, under ``.peers``, in the versions that were measured. They run
one at a time, in turns, each on this whole machine, for as long after their first steps. Their games are watched below all of their
wrappers: a step is four frames, a return is the raw score of a whole game with all its lives. CPU time is that of all processes.

``run`` puts what it measures into .peers/results: peers.json, where a run takes the place of an earlier one of its peer and seed, table.md
and peers.png. ``publish`` makes the table and the picture of docs/results/README.md of them. ``make bench BENCH=peers`` runs one seed of
each: an hour.
"""

import sys
from collections.abc import Iterator, Sequence

from benchmarks.measurement import NotMeasured, Result, informs
from benchmarks.peers.compare import FOLDER, PEERS, Peer, measured
from benchmarks.peers.page import write
from benchmarks.peers.store import DATA, PeerRun, Runs

SECONDS = 600.0
"""Of training of each, where nothing else is said."""
RESULTS = FOLDER / "results"


def in_turns(peers: Sequence[Peer], seeds: Sequence[int], seconds: float) -> Iterator[PeerRun]:
    """Those of one seed after the other. Raises ``NotMeasured`` for those that could not be measured, after all that could."""
    runs, failures = Runs(RESULTS / DATA), []
    for seed in seeds:
        for peer in peers:
            print(f"{peer.key}, seed {seed}, {seconds:.0f} s", file=sys.stderr, flush=True)
            try:
                found = measured(peer, seed, seconds)
            except NotMeasured as error:
                failures.append(str(error))
                print(f"error: {error}", file=sys.stderr, flush=True)
                continue
            runs.add(found)
            write(runs, RESULTS)
            yield found
    if failures:
        raise NotMeasured(f"{len(failures)} could not be measured: what is said above each")


def run(seconds: float) -> Iterator[Result]:
    """One seed of each, for ``python -m benchmarks peers``."""
    for found in in_turns(PEERS, (1,), seconds):
        setting = f"Breakout, {found.cores} cores, one program at a time, {seconds:.0f} s"
        yield informs(f"peers/{found.peer}_wall", found.rate(found.wall), "steps/s", setting)
        yield informs(f"peers/{found.peer}_cpu", found.rate(found.cpu), "steps/CPU s", setting)
        if found.final is not None:
            yield informs(f"peers/{found.peer}_return", found.final, "raw, at the end", setting)
