#!/usr/bin/env bash
# Trains on this machine: its CPU, one GPU, or all its GPUs in one process.
#
#   command    launch/local.sh --config=configs/debug.py --workdir=runs/debug
#   one GPU    CUDA_VISIBLE_DEVICES=0 launch/local.sh ...
#   the CPU    JAX_PLATFORMS=cpu launch/local.sh ...
#   GPUs need  pip install -e '.[cuda]'; without it jax sees the CPU only
#   ends       with the exit code of the run, except that 75 (stopped, saved) and 76 (lost a peer)
#              start it again: it goes on from its last checkpoint; MAX_RESTARTS=5 such starts
#              in a row that save nothing newer are the last
#   to stop    Ctrl-C or a termination signal: the run saves its state, and stays stopped
#
# Every flag goes to `python -m jaxsft.train`. PYTHON=... names another Python than .venv's.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -z "${PYTHON:-}" ]; then
  PYTHON=$root/.venv/bin/python
  [ -x "$PYTHON" ] || PYTHON=python3
fi

# shellcheck source=launch/restarts.sh
. "$root/launch/restarts.sh"

run=
stopping=
stop() {
  stopping=yes
  [ -z "$run" ] || kill -TERM "$run" 2>/dev/null
}
trap stop INT TERM

while true; do
  "$PYTHON" -m jaxsft.train "$@" &
  run=$!
  ended "$run"
  code=$?
  if [ -n "$stopping" ] || ! again "$code" "$@"; then
    exit "$code"
  fi
  sleep 1
done
