#!/usr/bin/env bash
# Trains on a TPU VM slice: starts the same command on all its hosts over ssh. LEGACY: the API behind
# `gcloud compute tpus` is for v4, v5e, v5p and v6e and gets bug fixes only; see gke_tpu.yaml.
#
#   create     launch/tpu_vm.sh create NAME ZONE v5litepod-16
#              a queued resource: it waits in line until there is capacity. RUNTIME=... names another
#              image than v2-alpha-tpuv5-lite; CREATE_FLAGS=--spot (or --reserved) how to get it.
#   install    launch/tpu_vm.sh install NAME ZONE
#              copies this checkout to all hosts and makes .venv there
#   train      launch/tpu_vm.sh train NAME ZONE --config=configs/llama3_8b.py --workdir=gs://BUCKET/x
#              every flag goes to `python -m jaxsft.train`; exit codes 75 (stopped, saved) and 76 (lost
#              a peer) start it again: it goes on from its last checkpoint; MAX_RESTARTS=5 such
#              starts in a row that save nothing newer are the last
#   delete     launch/tpu_vm.sh delete NAME ZONE
#
#   result     the run directory, which must be on gs://, where all hosts can see it
#   to stop    launch/tpu_vm.sh stop NAME ZONE: the run saves its state, and stays stopped
set -euo pipefail

usage() {
  sed -n '2,18s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 64
}
[ $# -ge 3 ] || usage
action=$1 name=$2 zone=$3
shift 3
tpus=(gcloud compute tpus)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# shellcheck source=launch/restarts.sh
. "$here/launch/restarts.sh"

stopped=${XDG_CACHE_HOME:-$HOME/.cache}/jaxsft/stopped-$zone-$name  # `stop` tells `train`

on_all_hosts() {
  "${tpus[@]}" tpu-vm ssh "$name" "--zone=$zone" --worker=all "--command=$1"
}

case $action in
  create)
    [ $# = 1 ] || usage
    read -ra how <<< "${CREATE_FLAGS:-}"
    "${tpus[@]}" queued-resources create "$name" "--zone=$zone" "--node-id=$name" \
      "--accelerator-type=$1" "--runtime-version=${RUNTIME:-v2-alpha-tpuv5-lite}" \
      ${how[@]+"${how[@]}"}
    ;;
  install)
    [ $# = 0 ] || usage
    packed=$(mktemp -d)
    trap 'rm -rf "$packed"' EXIT
    git -C "$here" archive --format=tar.gz --output="$packed/jaxsft.tar.gz" HEAD
    "${tpus[@]}" tpu-vm scp "$packed/jaxsft.tar.gz" "$name:" "--zone=$zone" --worker=all
    on_all_hosts "mkdir -p jaxsft && tar -xzf jaxsft.tar.gz -C jaxsft && cd jaxsft \
&& python3 -m venv .venv && .venv/bin/pip install -q -e '.[tpu,gcs]'"
    ;;
  train)
    command="cd jaxsft && exec .venv/bin/python -m jaxsft.train$(printf ' %q' "$@")"
    rm -f "$stopped"
    while true; do
      code=0
      on_all_hosts "$command" || code=$?
      if [ -e "$stopped" ] || ! again "$code" "$@"; then
        exit "$code"
      fi
      sleep 10
    done
    ;;
  stop)
    mkdir -p "$(dirname "$stopped")"
    touch "$stopped"
    on_all_hosts "pkill -TERM -f '[m] jaxsft.train' || true"
    ;;
  delete)
    "${tpus[@]}" queued-resources delete "$name" "--zone=$zone" --force
    ;;
  *)
    usage
    ;;
esac
