#!/bin/bash
# Trains with one actor per core that the workers bring, whenever they come and go; waits for the first of them.
# usage: learner.sh [option=value ...]
set -euo pipefail
head=head:6379
ray start --address="$head" --num-cpus=0 --num-gpus="${LEARNER_GPUS:-0}" --metrics-export-port=8080 \
  --object-store-memory="$OBJECT_STORE_BYTES" >/dev/null
# In the place of this script, so that whoever stops the container stops the training, which saves first.
exec rtrl-train "fleet.address=$head" fleet.num_actors=auto fleet.placement_timeout_s=1000000 logging.terminal=plain "$@"
