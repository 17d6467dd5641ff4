#!/bin/bash
# Trains with one actor per core that the workers bring; saves and goes on with more when workers join.
# usage: learner.sh [option=value ...]
set -euo pipefail
head=head:6379

cores() { # per address, because a worker that came back is listed twice until Ray has noticed that it was gone
  ray list nodes --address http://head:8265 --limit 10000 --format json 2>/dev/null | python -c '
import json, sys
best = {}
for node in json.load(sys.stdin):
    if node["state"] == "ALIVE":
        best[node["node_ip"]] = max(best.get(node["node_ip"], 0), int(node["resources_total"].get("CPU", 0)))
print(sum(best.values()))' 2>/dev/null
}

settled_cores() { # waits for two equal readings above zero
  local before=0 now=0
  while :; do
    now=$(cores) || now=0
    if [ "$now" -gt 0 ] && [ "$now" = "$before" ]; then echo "$now"; return; fi
    before=$now
    sleep 3
  done
}

ray start --address="$head" --num-cpus=0 --num-gpus="${LEARNER_GPUS:-0}" --metrics-export-port=8080 \
  --object-store-memory="$OBJECT_STORE_BYTES" >/dev/null
stopping=
training=
trap 'stopping=yes; if [ -n "$training" ]; then kill -TERM "$training" 2>/dev/null || true; fi' TERM INT

while :; do
  actors=$(settled_cores)
  [ -z "$stopping" ] || exit 0
  echo "training with $actors actors"
  rtrl-train "fleet.address=$head" "fleet.num_actors=$actors" logging.terminal=plain "$@" &
  training=$!
  grown=
  while kill -0 "$training" 2>/dev/null; do
    sleep "${SCALE_CHECK_S:-20}" &
    wait -n "$training" $! || true
    [ -z "$stopping" ] || break
    now=$(cores) || now=0
    if [ "$now" -gt "$actors" ]; then
      grown=yes
      echo "more cores: saving, then going on with them"
      kill -TERM "$training" 2>/dev/null || true
      break
    fi
  done
  # A signal interrupts the wait (128 + 15), not the training, which is still saving.
  while :; do
    status=0
    wait "$training" || status=$?
    if [ "$status" != 143 ] || ! kill -0 "$training" 2>/dev/null; then break; fi
  done
  training=
  if [ -n "$stopping" ] || [ -z "$grown" ]; then exit "$status"; fi
done
