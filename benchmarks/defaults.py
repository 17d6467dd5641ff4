"""What the settings of ``make train`` are worth beside others: ``python -m benchmarks.defaults [run|table] [NAME=VALUE ...]``.

``run`` trains Breakout for ten minutes with every setting, each a program of its own on one core. What docs/results/data/defaults.json
has is left alone, so that it goes on where it was stopped. ``table`` makes the table and the picture of docs/results/README.md from that
file, which has the tries before as well: some of them were of code that is no more, and are not run again.

jobs=N        programs of ``run`` at a time (2)
only=A;B      settings whose "task, setting" has one of these in it
folder=PATH   where the runs go (runs/defaults)
"""

import statistics
import sys
from collections.abc import Sequence

from benchmarks.algorithms import then
from benchmarks.fleets import lately
from benchmarks.learning import COLD, FIRST_BREAKOUT, RESULTS, Agent, Curve, Store, Study, Task, curves_by_minutes
from benchmarks.report import replace_table

MINUTES = 10
TASKS = (Task("Breakout", 20_000_000, ("experiment=atari_breakout", *COLD), minutes=MINUTES, row_steps=5_120),)
AGENTS: tuple[Agent, ...] = (
    Agent("found", ()),
    Agent("before", FIRST_BREAKOUT),
    Agent("half the streams, unrolls twice as long", ("actors.num_envs=4", "actors.unroll=64")),
    Agent(
        "streams, unrolls and returns as before",
        ("actors.num_envs=16", "actors.unroll=20", "loss.trace_decay=1.0"),
        seeds=(1,),
    ),
)
TRIED: tuple[tuple[str, str], ...] = (
    ("settings before", ""),
    ("the same, 8 streams: updates of 160 steps", "no"),
    ("the same, 8 streams and unrolls of 10: updates of 80 steps", "no"),
    ("no recurrence (`network.core=feedforward`): it is not the core that holds Breakout up", "no"),
    ("advantages divided by their deviation in each unroll", "no"),
    ("advantages divided by a running deviation", "no"),
    ("three passes, advantages divided", "no"),
    ("`network=shallow`", ""),
    ("`network=shallow`, advantages divided, 8 streams and unrolls of 10", "no"),
    ("`network=shallow`, learning rate 0.001, first run", ""),
    ("`network=shallow`, learning rate 0.001", "yes"),
    ("`network=shallow`, four passes", "no"),
    ("`network=shallow`, 0.001, 4 streams, unrolls of 64, lambda 0.95", ""),
    ("the same with unrolls of 128", "no"),
    ("the same with three passes", "no"),
    ("the same with 8 streams, four passes, advantages divided, 0.0005", "no"),
)
"""On the way to ``make train``, one seed each: of Breakout, in the order of trying, and whether it was kept."""
TRIES, TWO_CORES, STRESS = "Breakout, tried", "Breakout, two cores", "Breakout, eight actors, seven versions late"
"""Tasks of the file whose curves are not run by this program."""
WARMED = "a version late, `learner.warmup_updates=100`"
STANDARDISED = "the same, `network.standardise_steps=2000`"
MENDED: tuple[str, ...] = ("two versions late, no warm-up", WARMED, STANDARDISED)
INPUTS = "Breakout, what the network reads"
READ: tuple[str, ...] = (
    "as it was, no warm-up",
    "as it was, warm-up of 300 updates",
    "pixels standardised",
    "pixels less their mean, times 4",
    "pixels standardised, learning rate 0.002",
    "features divided by their root mean square",
    "layer norm of the features",
    "pixels standardised, features divided",
)
CHANGES = "Breakout, one change"
CHANGED: tuple[str, ...] = (
    "nothing",
    "`rule=tbptt`",
    "`loss.entropy_cost=0.001`",
    "`loss.entropy_cost=0.003`",
    "`loss.entropy_cost=0.03`",
    "`loss.baseline_cost=0.25`",
    "rewards times 0.3",
    "rewards times 3",
    "`learner.clip_norm=10`",
    "`learner.adam_epsilon=0.00001`",
    "features divided by their root mean square",
)
STRESSED: tuple[str, ...] = (
    *("as it was", "`learner.warmup_updates=300`", "`learner.warmup_updates=100`", "`learner.adam_betas=[0.9,0.99]`"),
    *("`learner.clip_norm=10`", "both", "`learner.adam_epsilon=0.003`", "leaky rectifiers"),
)
STEPS = (10_000, 30_000, 60_000, 90_000)
PICTURED = ("found", "before")


def table(store: Store) -> list[str]:
    """Lines of Markdown: of each setting the returns per seed, after half of the time and after all of it."""
    (task,) = TASKS
    times = f"after {MINUTES / 2:g} minutes | after {MINUTES} minutes"
    lines = [f"| setting | changed from `make train` | {times} | k steps |", "|---" * 5 + "|"]
    for agent in AGENTS:
        curves = store.of(task, agent)
        cells = [
            agent.name,
            " ".join(f"`{word}`" for word in dict.fromkeys((*COLD, *agent.words))),
            " ".join(f"{then(curve, curve.wall, 30 * MINUTES):.1f}" for curve in curves),
            " ".join(f"{curve.mean_return[-1]:.1f}" for curve in curves),
            " ".join(f"{curve.steps[-1] / 1000:.0f}" for curve in curves),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [
        *lines,
        "",
        *whole_machine(store),
        "",
        *inputs(store),
        "",
        *changes(store),
        "",
        *stress(store),
        "",
        *tries(store),
    ]


def whole_machine(store: Store) -> list[str]:
    """``make train`` as it was and as it is, on a machine of its own, by minutes."""
    minutes = (3, 6, 10, 15)
    lines = [
        f"| `make train` on all of two cores | seed | {' | '.join(f'{m} minutes' for m in minutes)} | k steps | encoder |",
        "|---" * 8 + "|",
    ]
    for agent in MENDED:
        for curve in sorted(of(store, TWO_CORES, agent), key=lambda curve: (curve.seed, -curve.seconds)):
            returns, share = by_minutes(curve, minutes), f"{lately(curve.encoder):.2g}" if curve.encoder else "-"
            lines.append(f"| {agent} | {curve.seed} | {returns} | {curve.steps[-1] / 1000:.0f} | {share} |")
    return lines


def inputs(store: Store) -> list[str]:
    """What standardising is worth, on one core, by minutes."""
    return by_seed(store, INPUTS, READ, (1, 2, 3, 4, 8))


def changes(store: Store) -> list[str]:
    """What one change from ``make train`` is worth, on one core, by minutes."""
    return by_seed(store, CHANGES, CHANGED, (1, 2, 3, 4))


def by_seed(store: Store, task: str, agents: Sequence[str], minutes: Sequence[int]) -> list[str]:
    """A line for each run."""
    heads = " | ".join(f"{minute} min" for minute in minutes)
    lines = [f"| {task} | seed | {heads} | k steps |", "|---" * (3 + len(minutes)) + "|"]
    for agent in agents:
        for curve in of(store, task, agent):
            returns = by_minutes(curve, minutes)
            lines.append(f"| {agent} | {curve.seed} | {returns} | {curve.steps[-1] / 1000:.0f} |")
    return lines


def by_minutes(curve: Curve, minutes: Sequence[int]) -> str:
    """Cells of a table; a run that was stopped a little before a minute was full counts for it."""
    return " | ".join(
        f"{then(curve, curve.wall, 60 * minute):.1f}" if curve.wall[-1] >= 55 * minute else "-" for minute in minutes
    )


def stress(store: Store) -> list[str]:
    """The encoder's share of the gradient, by steps."""
    heads = " | ".join(f"{steps // 1000} k steps" for steps in STEPS)
    lines = [f"| {STRESS}: changed | {heads} |", "|---" * (1 + len(STEPS)) + "|"]
    for agent in STRESSED:
        (curve,) = of(store, STRESS, agent)
        lines.append(f"| {agent} | {' | '.join(share_at(curve, steps) for steps in STEPS)} |")
    return lines


def share_at(curve: Curve, steps: int) -> str:
    """Median of the rows within 5,000 steps of a point; nothing beyond the end."""
    near = [share for at, share in zip(curve.steps, curve.encoder, strict=True) if abs(at - steps) <= 5_000]
    return f"{statistics.median(near):.2f}" if near else "-"


def of(store: Store, task: str, agent: str) -> list[Curve]:
    return [curve for curve in store.curves if (curve.task, curve.agent) == (task, agent)]


def tries(store: Store) -> list[str]:
    lines = ["| tried, one seed each | after 4 minutes | at the end | minutes | k steps | kept |", "|---" * 6 + "|"]
    for name, kept in TRIED:
        (curve,) = [curve for curve in store.curves if (curve.task, curve.agent) == (TRIES, name)]
        returns = f"{then(curve, curve.wall, 240):.1f} | {curve.mean_return[-1]:.1f}"
        lines.append(f"| {name} | {returns} | {curve.seconds / 60:.1f} | {curve.steps[-1] / 1000:.0f} | {kept} |")
    return lines


def write(store: Store) -> None:
    replace_table(RESULTS / "README.md", "python -m benchmarks.defaults table", table(store))
    pictured = [agent for agent in AGENTS if agent.name in PICTURED]
    curves_by_minutes(store, TASKS, pictured, RESULTS / "defaults.png")


STUDY = Study("defaults", TASKS, AGENTS, (1, 2, 3), ("fleet=local", "fleet.num_actors=2"), write, __doc__ or "")


if __name__ == "__main__":
    sys.exit(STUDY.main(sys.argv[1:]))
