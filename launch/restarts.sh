# Whether a run that ended is started again: read by local.sh, slurm.sbatch and tpu_vm.sh.
#
#   command  . launch/restarts.sh; again CODE FLAGS... || exit CODE
#
# After 75 (stopped, saved) and 76 (lost a peer) it is, unless MAX_RESTARTS (5) restarts in a row
# brought no newer checkpoint: what ends each start again is nothing that a start mends.
# shellcheck shell=bash

MAX_RESTARTS=${MAX_RESTARTS:-5}
restarts_step=0     # of the newest checkpoint, when it was last looked for
restarts_in_vain=0  # restarts since it was another

# Says whether a run that ended with the code $1 is started again, with the flags that follow. Where
# RESTARTS_FILE names a file, what it counts outlives the shell.
again() {
  local code=$1 step
  shift
  case $code in 75 | 76) ;; *) return 1 ;; esac
  if [ -s "${RESTARTS_FILE:-}" ]; then
    read -r restarts_step restarts_in_vain < "$RESTARTS_FILE"
  fi
  step=$(newest_step "$(workdir_of "$@")")
  if [ "$step" -gt "$restarts_step" ]; then
    restarts_step=$step restarts_in_vain=0
  fi
  restarts_in_vain=$((restarts_in_vain + 1))
  if [ -n "${RESTARTS_FILE:-}" ]; then
    echo "$restarts_step $restarts_in_vain" > "$RESTARTS_FILE"
  fi
  local since="since the checkpoint of step $restarts_step"
  if [ "$restarts_in_vain" -gt "$MAX_RESTARTS" ]; then
    echo "launch: the run ended with exit code $code and is not started again: MAX_RESTARTS=$MAX_RESTARTS" \
      "restarts $since saved no newer one" >&2
    return 1
  fi
  echo "launch: the run ended with exit code $code, starting it again" \
    "(restart $restarts_in_vain of at most $MAX_RESTARTS $since)" >&2
}

# The value of --workdir among these flags.
workdir_of() {
  while [ $# -gt 0 ]; do
    case $1 in
      --workdir=* | -workdir=*) echo "${1#*=}"; return ;;
      --workdir | -workdir) echo "${2:-}"; return ;;
    esac
    shift
  done
}

# The step of the newest complete checkpoint under the directory or gs:// URL $1; 0: none.
newest_step() {
  local name=commit_success.txt files
  case $1 in
    '') files='' ;;
    gs://*) files=$(in_bucket "$1" "$name") ;;
    *) files=$(cd "$1" 2>/dev/null && printf '%s\n' checkpoints/*/"$name") ;;
  esac
  printf '0\n%s\n' "$files" | sed -n "s:^.*/\([0-9]\{1,\}\)/$name\$:\1:p; 1p" | sort -n | tail -n 1
}

# The files of the name $2 in the checkpoints under the URL $1: by gcloud, else by the run's Python.
in_bucket() {
  if command -v gcloud > /dev/null; then
    gcloud storage ls "$1/checkpoints/*/$2" 2>/dev/null
  else
    "${PYTHON:-python3}" -c '
import sys
from etils import epath
print(*epath.Path(sys.argv[1], "checkpoints").glob(f"*/{sys.argv[2]}"), sep="\n")
' "$1" "$2" 2>/dev/null
  fi
}

# Waits for the background process $1, whatever signals this shell traps, and returns its exit code.
ended() {
  local code
  while true; do
    wait "$1"
    code=$?
    kill -0 "$1" 2>/dev/null || break
  done
  if [ "$code" -gt 128 ]; then # perhaps of a trap, at its very end
    wait "$1"
    code=$?
  fi
  return "$code"
}
