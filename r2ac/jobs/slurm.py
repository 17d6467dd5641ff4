"""A job on SLURM: one batch script that starts Ray on the allocated nodes, trains, and is queued again before its time is over."""

import re
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from string import Template

from conf.submit_schema import SlurmTarget
from r2ac.jobs.job import FAILED, SUCCEEDED, Job, JobInUse, SubmitError, run_tool

POLL_S = 2.0
SECONDS_TO_SAVE = 300
LONGEST_SCRATCH = 37
"""A socket's name has at most 107 bytes, of which ``/ray/session_DATE_TIME_MICROSECONDS_PID/sockets/plasma_store`` are up to 70."""
WORD = re.compile(r"[\w.,:+@/-]+")
UNFINISHED = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "RESIZING", "SUSPENDED")

_HEAD = Template("""\
#!/bin/bash
#SBATCH --job-name=$name
#SBATCH --nodes=$nodes
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=$cpus
#SBATCH --time=$time_limit
#SBATCH --output=$output
#SBATCH --open-mode=append
#SBATCH --requeue
$options
set -euo pipefail
$setup$choice
export RAY_USAGE_STATS_ENABLED=0
# Ray's ports are open to the whole network, and whoever may use them may run code: only who can read this file may. One per attempt.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$tokens/.$name-"$$SLURM_JOB_ID".token
unset RAY_AUTH_TOKEN
mkdir -p $tokens
(umask 077; rm -f "$$RAY_AUTH_TOKEN_PATH"; od -An -v -tx1 -N32 /dev/urandom | tr -d ' \\n' >"$$RAY_AUTH_TOKEN_PATH")
trap 'rm -f "$$RAY_AUTH_TOKEN_PATH"' EXIT
# Steps do not take it from the job by themselves.
export SRUN_CPUS_PER_TASK=$cpus
$scratch
nodes=$$(scontrol show hostnames "$$SLURM_JOB_NODELIST")
head=$${nodes%%[[:space:]]*}
# The address by which other nodes reach the head: a name may also stand for the loopback interface, and for IPv6.
address=$$(srun --nodes=1 --ntasks=1 --nodelist="$$head" bash -c 'hostname --ip-address; hostname --all-ip-addresses' |
  awk '{ for (i = 1; i <= NF; i++) { if (!first) first = $$i; if (!found && $$i ~ /^[0-9.]+$$/ && $$i !~ /^127[.]/) found = $$i } }
    END { print found ? found : first }')
if timeout 5 bash -c ": <>/dev/tcp/$$address/$port" 2>/dev/null; then
  echo "error: another program, perhaps the Ray of another job, listens at $$address:$port: set target.port" >&2; exit 1
fi
""")

_MANUAL = Template("""\
# One step per node, ended by this script alone: other jobs' Ray on a shared node is left alone.
steps=()
srun --overlap --nodes=1 --ntasks=1 --nodelist="$$head" \\
  ray start --head --node-ip-address="$$address" --port=$port --num-cpus=$cpus $gpus --include-dashboard=false --block &
steps+=($$!)
end_steps() { kill "$${steps[@]}" 2>/dev/null || true; wait "$${steps[@]}" 2>/dev/null || true; rm -f "$$RAY_AUTH_TOKEN_PATH"; }
trap end_steps EXIT
for attempt in $$(seq 60); do
  ray health-check --address "$$address:$port" >/dev/null 2>&1 && break
  if [ "$$attempt" = 60 ] || ! kill -0 "$${steps[0]}" 2>/dev/null; then
    echo "error: Ray's head on $$head did not start; see above" >&2; exit 1
  fi
  sleep 1
done
$workers
$train &
training=$$!
# SLURM sends USR1 before the time is over: the training saves and ends, and the job goes back into the queue.
out_of_time=
trap 'out_of_time=yes; kill -TERM "$$training"' USR1
# A wait that the signal interrupts returns 128 + 10; the training is still saving then.
while :; do status=0; wait "$$training" || status=$$?; [ "$$status" = 138 ] || break; done
if [ -n "$$out_of_time" ]; then scontrol requeue "$$SLURM_JOB_ID"; fi
exit "$$status"
""")

_WORKERS = Template("""\
srun --overlap --nodes=$others --ntasks=$others --exclude="$$head" \\
  ray start --address="$$address:$port" --num-cpus=$cpus $gpus --block &
steps+=($$!)\
""")

_SYMMETRIC = Template("""\
# Starts and stops Ray on all nodes; "ray stop" at its end would also end other jobs' Ray, hence whole nodes.
srun --nodes=$nodes --ntasks=$nodes \\
  ray symmetric-run --address "$$address:$port" --min-nodes $nodes --num-cpus=$cpus $gpus --include-dashboard=false -- \\
  $train
""")


@dataclass(frozen=True, slots=True)
class Script:
    """What differs between the script of one job and that of many."""

    name: str
    log: str
    """As sbatch reads it; see ``as_path``."""
    tokens: str
    """Folder for the tokens of Ray, as a word of the shell."""
    train: str
    """The training's command line."""
    array: str | None = None
    """The numbers of an array's tasks, as sbatch takes them."""
    choice: str = ""
    """Lines by which a task of an array finds its words and its port."""
    port: str | None = None
    """Of Ray's head, as the shell reads it; ``None`` is the target's."""


def render(job: Job, target: SlurmTarget) -> str:
    """The batch script; see ``script``."""
    train = job.command(**proposed(job, target))
    if "fleet.address" not in job.given:
        train += f' "fleet.address=$address:{target.port}"'
    tokens = '"$SLURM_SUBMIT_DIR"' if job.elsewhere else shlex.quote(str(Path(job.run_dir).parent))
    return script(target, Script(job.name, as_path(_log(job)), tokens, train))


def proposed(job: Job, target: SlurmTarget) -> dict[str, int]:
    """Options of the training that follow from the allocation, where the user says nothing."""
    num_actors = job.actors_on(target.nodes * target.cpus_per_node - 1)  # one is left to driver and learner
    return {"fleet__num_actors": num_actors, "fleet__placement_timeout_s": 120}


def script(target: SlurmTarget, parts: Script) -> str:
    """The batch script.

    Raises:
        SubmitError: if Ray's sockets would have too long a name, or for an option that is no word to sbatch.
    """
    if target.scratch is not None and len(target.scratch.encode()) > LONGEST_SCRATCH:
        raise SubmitError(
            f"target.scratch must have at most {LONGEST_SCRATCH} characters, because the names of Ray's sockets begin with it, "
            f"got {len(target.scratch.encode())}: {target.scratch}"
        )
    _require_words(target)
    manual = target.launcher == "manual"
    options = {
        "array": parts.array,
        "partition": target.partition,
        "account": target.account,
        "mem": target.memory,
        "gpus-per-node": target.gpus_per_node or None,
        "signal": f"B:USR1@{SECONDS_TO_SAVE}" if manual else None,
    }
    lines = [f"#SBATCH --{name}={_quoted(value)}" for name, value in options.items() if value is not None]
    lines += [] if manual else ["#SBATCH --exclusive"]
    values = {
        "name": parts.name,
        "nodes": target.nodes,
        "others": target.nodes - 1,
        "cpus": target.cpus_per_node,
        "gpus": f"--num-gpus={target.gpus_per_node}",
        "port": target.port if parts.port is None else parts.port,
        "time_limit": target.time_limit,
        "output": _quoted(parts.log),
        "tokens": parts.tokens,
        "options": "\n".join(lines) + "\n" if lines else "",
        "setup": target.setup,
        "choice": parts.choice,
        "scratch": f"export RAY_TMPDIR={shlex.quote(target.scratch)}\n" if target.scratch else "",
        "train": parts.train,
    }
    workers = _WORKERS.substitute(values) if target.nodes > 1 else ""
    body = _MANUAL if manual else _SYMMETRIC
    return _HEAD.substitute(values) + body.substitute(values, workers=workers)


def submit(job: Job, target: SlurmTarget, follow: bool) -> int:
    """Queues it; Ctrl-C while following leaves it queued or running.

    Raises:
        SubmitError: if SLURM's tools are missing or fail, or a job of this name is queued or running.
    """
    require_unused(job.name)
    log = Path(_log(job))
    log.parent.mkdir(parents=True, exist_ok=True)
    seen = log.stat().st_size if log.exists() else 0
    number = run_tool(["sbatch", "--parsable"], render(job, target)).strip().partition(";")[0]
    print(f"job {job.name} queued as {number}; log: {log}")
    if not follow:
        return SUCCEEDED
    try:
        return _follow(number, log, seen)
    except KeyboardInterrupt:
        print(f"\njob {number} goes on; follow it: tail -f {shlex.quote(str(log))}; stop it: scancel {number}")
        return SUCCEEDED


def require_unused(name: str) -> None:
    """Raises ``JobInUse`` if a job of this name is queued or running."""
    active = run_tool(["squeue", "--me", "--noheader", f"--name={name}", "--format=%i"]).split()
    if active:
        raise JobInUse(f"job name {name} is in use by job {active[0]}: scancel {active[0]}, or choose another job_name")


def _follow(number: str, log: Path, seen: int) -> int:
    while True:
        state = _state(number)
        if log.exists():
            with log.open("rb") as file:
                file.seek(seen)
                text = file.read()
            seen += len(text)
            print(text.decode(errors="replace"), end="", flush=True)
        if state not in UNFINISHED:
            print(f"job {number} {state.lower()}")
            return SUCCEEDED if state == "COMPLETED" else FAILED
        time.sleep(POLL_S)


def _state(number: str) -> str:
    found = re.search(r"JobState=(\w+)", run_tool(["scontrol", "show", "job", number, "--oneliner"]))
    if found is None:
        raise SubmitError(f"scontrol does not say how job {number} is: ask sacct --jobs={number}")
    return found[1]


def _quoted(value: object) -> str:
    """As sbatch reads the value of an option in a script: with a shell's quotes."""
    return shlex.quote(str(value))


def _log(job: Job) -> str:
    return f"{job.name}.log" if job.elsewhere else f"{job.run_dir}.log"


def as_path(path: str) -> str:
    """A path in which sbatch finds no patterns such as ``%j``."""
    return path.replace("%", "%%")


def _require_words(target: SlurmTarget) -> None:
    """None of these has a blank or a quote in it on any cluster, and some of them are read by more than sbatch."""
    for option in ("time_limit", "partition", "account", "memory"):
        value = getattr(target, option)
        if value is not None and not WORD.fullmatch(value):
            raise SubmitError(f"target.{option} must be one word of letters, digits and _.,:+@/-, got {value!r}")
