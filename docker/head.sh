#!/bin/bash
# Ray's head: scheduling, job API and dashboard; actors run on workers.
set -euo pipefail
# Ray's own dashboards are written when the head starts; Grafana reads them from a shared volume.
(until cp /tmp/ray/session_latest/metrics/grafana/dashboards/*.json /ray-dashboards/ 2>/dev/null; do sleep 2; done) &
exec ray start --head --block --port=6379 --num-cpus=0 --object-store-memory="$OBJECT_STORE_BYTES" \
  --dashboard-host=0.0.0.0 --dashboard-port=8265 --metrics-export-port=8080
