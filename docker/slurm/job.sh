#!/bin/bash
#SBATCH --job-name=breakout
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --output=/shared/runs/breakout.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300

set -euo pipefail
source .venv/bin/activate
export RAY_USAGE_STATS_ENABLED=0
# Ray's ports are open to the whole network, and whoever may use them may run code: only who can read this file may. One per attempt.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=/shared/runs/.breakout-"$SLURM_JOB_ID".token
unset RAY_AUTH_TOKEN
mkdir -p /shared/runs
(umask 077; rm -f "$RAY_AUTH_TOKEN_PATH"; od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n' >"$RAY_AUTH_TOKEN_PATH")
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT
# Steps do not take it from the job by themselves.
export SRUN_CPUS_PER_TASK=16

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes%%[[:space:]]*}
# The address by which other nodes reach the head: a name may also stand for the loopback interface, and for IPv6.
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" bash -c 'hostname --ip-address; hostname --all-ip-addresses' |
  awk '{ for (i = 1; i <= NF; i++) { if (!first) first = $i; if (!found && $i ~ /^[0-9.]+$/ && $i !~ /^127[.]/) found = $i } }
    END { print found ? found : first }')
if timeout 5 bash -c ": <>/dev/tcp/$address/6379" 2>/dev/null; then
  echo "error: another program, perhaps the Ray of another job, listens at $address:6379: set target.port" >&2; exit 1
fi
# One step per node, ended by this script alone: other jobs' Ray on a shared node is left alone.
steps=()
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
  ray start --head --node-ip-address="$address" --port=6379 --num-cpus=16 --num-gpus=0 --include-dashboard=false --block &
steps+=($!)
end_steps() { kill "${steps[@]}" 2>/dev/null || true; wait "${steps[@]}" 2>/dev/null || true; rm -f "$RAY_AUTH_TOKEN_PATH"; }
trap end_steps EXIT
for attempt in $(seq 60); do
  ray health-check --address "$address:6379" >/dev/null 2>&1 && break
  if [ "$attempt" = 60 ] || ! kill -0 "${steps[0]}" 2>/dev/null; then
    echo "error: Ray's head on $head did not start; see above" >&2; exit 1
  fi
  sleep 1
done
srun --overlap --nodes=1 --ntasks=1 --exclude="$head" \
  ray start --address="$address:6379" --num-cpus=16 --num-gpus=0 --block &
steps+=($!)
rtrl-train experiment=atari_breakout fleet.num_actors=31 fleet.placement_timeout_s=120 logging.terminal=plain name=breakout run_dir=/shared/runs/breakout resume=auto "fleet.address=$address:6379" &
training=$!
# SLURM sends USR1 before the time is over: the training saves and ends, and the job goes back into the queue.
out_of_time=
trap 'out_of_time=yes; kill -TERM "$training"' USR1
# A wait that the signal interrupts returns 128 + 10; the training is still saving then.
while :; do status=0; wait "$training" || status=$?; [ "$status" = 138 ] || break; done
if [ -n "$out_of_time" ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$status"
