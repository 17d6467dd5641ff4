"""``rtrl-demo``: the argument of the project in one command, in three minutes on two cores.

The same program trains the same T-maze twice, with a corridor ten times as long as the unroll. With exact RTRL the choice at the
end is credited to the cue at the start; truncated BPTT never sees the two together and stays at chance.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from conf.describe import describe
from conf.knobs import MAX_SEED, MAX_STEPS, knob
from conf.load import load_options
from r2ac.commands.stop_signals import StopSignals
from r2ac.commands.user_mistakes import printed, reported

COMPARED = {"segment": "RTRL (exact, untruncated)", "tbptt": "truncated BPTT"}
STEPS_PER_ROW = 20_480


@dataclass
class DemoConfig:
    corridor: int = knob(100, "steps between the cue and the choice", minimum=1, maximum=1_000_000)
    unroll: int = knob(10, "steps per unroll", minimum=1, maximum=1_000_000)
    total_steps: int = knob(900_000, "agent steps of each run", minimum=1, maximum=MAX_STEPS)
    seed: int = knob(1, "of both runs", minimum=0, maximum=MAX_SEED)
    output: str = knob("runs/demo", "folder for both runs and the plot", place=True)


@dataclass(frozen=True, slots=True)
class Curve:
    """Success rate over training."""

    steps: list[int]
    success: list[float]
    wall_time_s: float

    @property
    def final(self) -> float:
        """Over the last tenth of the run."""
        tail = self.success[-max(1, len(self.success) // 10) :]
        return sum(tail) / len(tail)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        return printed("usage: rtrl-demo [option=value ...]\n\n" + describe(DemoConfig))
    return reported(lambda: run(load_options(DemoConfig, arguments), Console()))


def run(config: DemoConfig, console: Console) -> int:
    """Trains both at the same time, one core each, then prints the table and writes the plot."""
    output = Path(config.output)
    for rule in COMPARED:
        shutil.rmtree(output / rule, ignore_errors=True)
    console.print(
        f"T-maze: cue, then {config.corridor} steps of corridor, then a choice. Unrolls of {config.unroll} steps."
    )
    stop = StopSignals()
    stop.begin()
    progress = Progress(console=console, transient=True)
    task = progress.add_task("training both", total=2 * config.total_steps)
    runs = {rule: _start(rule, config, output / rule) for rule in COMPARED}
    progress.start()
    while any(process.poll() is None for process in runs.values()):
        if stop.requested:
            for process in runs.values():
                process.terminate()
        time.sleep(1)
        progress.update(task, completed=sum(_steps_so_far(output / rule / "summary.json") for rule in COMPARED))
    progress.stop()
    for rule, process in runs.items():
        if process.returncode != 0:
            print(f"error: the run with rule={rule} failed; see {output / rule / 'log.txt'}", file=sys.stderr)
            return 1
    if stop.requested:
        return 130
    curves = {rule: read_curve(output / rule / "metrics.jsonl") for rule in COMPARED}
    table = Table("learning rule", "success at the end", "agent steps", "seconds", title="Is the cue remembered?")
    for rule, curve in curves.items():
        table.add_row(COMPARED[rule], f"{100 * curve.final:.1f} %", f"{curve.steps[-1]:,}", f"{curve.wall_time_s:.0f}")
    console.print()
    console.print(table)
    plot(curves, config, output / "tmaze.png")
    console.print(f"plot: {output / 'tmaze.png'}   (chance is 50 %)")
    return 0


def _start(rule: str, config: DemoConfig, run_dir: Path) -> subprocess.Popen[bytes]:
    """The ordinary training program, in this process tree and without Ray."""
    run_dir.mkdir(parents=True)
    command = [
        *(
            sys.executable,
            "-m",
            "r2ac.commands.train",
            "experiment=tmaze",
            f"rule={rule}",
            "fleet=local",
            "fleet.num_actors=1",
        ),
        *("logging=quiet", f"logging.interval_steps={STEPS_PER_ROW}", "logging.keep_checkpoints=1"),
        *(f"env.corridor={config.corridor}", f"actors.unroll={config.unroll}", f"total_steps={config.total_steps}"),
        *(f"seed={config.seed}", f"name=demo_{rule}", f"run_dir={run_dir}"),
    ]
    with (run_dir / "log.txt").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def _steps_so_far(summary: Path) -> int:
    return json.loads(summary.read_text())["agent_steps"] if summary.exists() else 0


def read_curve(path: Path) -> Curve:
    """From a run's metrics. The return of an episode is 1 or 0: its mean is the success rate."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [row for row in rows if row.get("episode_return_mean") is not None]
    return Curve(
        [row["agent_steps"] for row in rows],
        [row["episode_return_mean"] for row in rows],
        rows[-1]["wall_time_s"] if rows else 0.0,
    )


def plot(curves: dict[str, Curve], config: DemoConfig, path: Path) -> None:
    """Success over agent steps, one line per rule."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.2), constrained_layout=True)
    colours = {"segment": "#0b6e4f", "tbptt": "#b3541e"}
    for rule, curve in curves.items():
        millions = [steps / 1e6 for steps in curve.steps]
        axes.plot(
            millions, [100 * share for share in curve.success], label=COMPARED[rule], color=colours[rule], linewidth=2
        )
    axes.axhline(50, color="#888888", linewidth=1, linestyle="--")
    axes.text(0.005 * config.total_steps / 1e6, 52, "chance", color="#666666")
    axes.set_ylim(0, 104)
    axes.set_xlabel("agent steps (millions)")
    axes.set_ylabel("success (%)")
    axes.set_title(f"T-maze: cue remembered over {config.corridor} steps, unrolls of {config.unroll} steps")
    axes.legend(loc="center right", bbox_to_anchor=(1.0, 0.75), frameon=False)  # between the two curves
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
