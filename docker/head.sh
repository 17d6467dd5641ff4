#!/bin/bash
# Ray's head: scheduling, job API and dashboard; actors run on workers.
set -euo pipefail
# Ray's own dashboards are written when the head starts; Grafana reads them from a shared volume.
(until cp /tmp/ray/session_latest/metrics/grafana/dashboards/*.json /ray-dashboards/ 2>/dev/null; do sleep 2; done) &
# Whoever may use Ray's ports may run code: only who can read this may. It is kept, so that containers may start again in any order.
if [ ! -s "$RAY_AUTH_TOKEN_PATH" ]; then
  (umask 077; od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n' >"$RAY_AUTH_TOKEN_PATH.new")
  mv "$RAY_AUTH_TOKEN_PATH.new" "$RAY_AUTH_TOKEN_PATH"
fi
exec ray start --head --block --port=6379 --num-cpus=0 --object-store-memory="$OBJECT_STORE_BYTES" \
  --dashboard-host=0.0.0.0 --dashboard-port=8265 --metrics-export-port=8080
