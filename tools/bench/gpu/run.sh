#!/usr/bin/env bash
# Measures what one GPU does, part by part: tools/bench/gpu/run.sh [PART ...], from any folder.
#
# OUT=DIR      results.jsonl, log.txt, trace; at the end a table of them is printed
# LIMIT=525    seconds for all parts together; they come in order of value, each with its own limit
# WHEELS=DIR   what get_wheels.sh made: is installed into SITE first
# TINY=1       a dry run on a CPU: the smallest sizes, and LIMIT alone for each part
# TORCH=MODES  of the part torch, causal+c,flex+c,mask+c; each `+c` needs a C++ compiler, or a GPU
# ATTENTION=NAMES  of the part attention, cudnn,triton,cudnn_no_cond,cudnn_dense_causal; blocked, xla
# ATTENTION_SIZES=1x4096,4x4096,1x8192  of the parts attention and torch_attention
# DET=KINDS    of the part det, bf16det+twice,f32+twice; also f32det, bf16
# LLAMA1B=TRIES   of the part llama1b, as steps.py reads them
# PY=python3   SITE=DIR   SCRATCH=DIR
set -u
T0=$(date +%s)
LIMIT=${LIMIT:-525}
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
cd "$ROOT" || exit 1
export OUT=${OUT:-/tmp/out} SCRATCH=${SCRATCH:-/tmp/jaxsft_gpu}
mkdir -p "$OUT" "$SCRATCH"
PY=${PY:-python3}
SITE=${SITE:-/tmp/site}
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TF_CPP_MIN_LOG_LEVEL=2
export XDG_CACHE_HOME=${XDG_CACHE_HOME:-$SCRATCH/cache}
export PYTHONPATH=$ROOT:$ROOT/tools:$SITE${PYTHONPATH:+:$PYTHONPATH}
# jax takes this share at once; its default of .75 leaves 60 of an H100's 80 GB.
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-.92}

left() { echo $((LIMIT - ($(date +%s) - T0))); }

part() { # seconds name command...
  local seconds=$1 name=$2
  shift 2
  local have=$(($(left) - 8))
  if [ "$have" -lt 12 ]; then
    echo "-- $name: no time left"
    return
  fi
  if [ "$seconds" -gt "$have" ] || [ $tiny ]; then seconds=$have; fi
  echo "-- $name (at $(($(date +%s) - T0)) s, limit $seconds s)"
  timeout -k 5 "$seconds" "$@" >>"$OUT/log.txt" 2>&1 </dev/null
  local rc=$?
  if [ $rc -ne 0 ]; then
    echo "{\"part\": \"$name\", \"rc\": $rc}" >>"$OUT/results.jsonl"
    echo "   rc=$rc"
    grep -v '^[WEI][0-9]' "$OUT/log.txt" | tail -4 | cut -c1-300
  fi
}

measured() { # seconds name part arguments...
  local seconds=$1 name=$2
  shift 2
  part "$seconds" "$name" "$PY" -m bench.gpu.part "$@"
}

wanted=" $* "
want() { [ "$wanted" = "  " ] || [[ "$wanted" == *" $1 "* ]]; }
by_name() { [[ "$wanted" == *" $1 "* ]]; }

install() {
  "$PY" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
    --target "$SITE" "$@" 2>&1 | tail -2
}

if [ -n "${WHEELS:-}" ]; then
  install "$WHEELS"/whl/*.whl
  "$PY" - <<'Y' || install "$WHEELS"/whl_newer/*.whl
import importlib.metadata as m, sys
v = lambda n: tuple(int(x) for x in m.version(n).split(".")[:3])
new = v("flax") >= (0, 12, 8) and v("optax") >= (0, 2, 8) and v("orbax-checkpoint") >= (0, 12, 8)
sys.exit(not new)
Y
fi
query() { nvidia-smi --query-gpu="$1" --format="csv,noheader$2" 2>/dev/null; }
query name,memory.total,driver_version "" | tee "$OUT/smi.txt"
MIB=$(query memory.total ,nounits | head -1)
big=
tiny=
rows=2 # of 4,096 tokens
if [ "${TINY:-}" = 1 ]; then tiny=1; fi
if [ "${MIB:-0}" -gt 100000 ]; then
  big=1
  rows=4
fi
"$PY" -c "import jaxsft.run, bench.ours" >>"$OUT/log.txt" 2>&1 || {
  echo "IMPORT FAILED"
  tail -5 "$OUT/log.txt"
}

if want facts; then measured 60 facts facts; fi
if want cpu; then # beside the others, on the processor
  (timeout "$([ $tiny ] && left || echo 150)" env JAX_PLATFORMS=cpu "$PY" -m bench.gpu.part e2e cpu >>"$OUT/log.txt" 2>&1 </dev/null &)
fi
if want attention; then measured 90 attention attention; fi
if want llama1b; then
  measured 100 llama1b step llama3_2_1b \
    "${LLAMA1B:-$rows:save_projections:16,$rows:full:16+$rows:none:16}" 12 profile
fi
if want e2e; then
  measured 110 e2e e2e f32,bf16
  measured 45 logits logits
fi
if want torch; then # a process each: one that compiles for long takes nothing from the next
  for mode in $(tr , ' ' <<<"${TORCH:-causal+c,flex+c,mask+c}"); do
    measured 60 "torch $mode" torch "$rows" "$mode"
  done
fi
if want torch_attention; then measured 60 torch_attention torch_attention; fi
if want qwen4b; then
  if [ $big ]; then
    measured 90 qwen4b step qwen3_4b 3:save_projections:16,2:save_projections:16,2:full:16 8
  else
    measured 90 qwen4b step qwen3_4b 1:full:12 8
  fi
fi
if want llama8b && [ $big ]; then measured 100 llama8b step llama3_1_8b 2:save_context:12,2:full:12 6; fi
if want qwen06b; then
  measured 80 qwen06b step qwen3_0_6b "$rows:none:16" 12
fi
if want experts; then measured 60 experts experts; fi
if want pytest; then
  platform=cuda
  tests=(-n 6 tests/devices/test_chips.py tests/kernels tests/model)
  if [ $tiny ]; then
    platform=cpu
    tests=(-n 0 tests/devices/test_chips.py)
  fi
  part 90 pytest env JAXSFT_TEST_PLATFORM="$platform" XLA_PYTHON_CLIENT_MEM_FRACTION=.1 \
    "$PY" -m pytest -p no:cacheprovider -p no:benchmark -rfE "${tests[@]}"
  grep -aE "^(FAILED|ERROR)|passed|failed" "$OUT/log.txt" | tail -30 | cut -c1-230
fi
if by_name lora8b; then
  measured 110 lora8b step llama3_1_8b 2:auto:lora,2:save_attention:lora 3
fi
if by_name nf4; then measured 90 nf4 step llama3_1_8b 2:auto:nf4 2; fi
if by_name tiles; then measured 120 tiles tiles; fi
if by_name det; then
  for kind in $(tr , ' ' <<<"${DET:-bf16det+twice,f32+twice}"); do
    measured 110 "det $kind" e2e "$kind"
  done
fi
if by_name peer; then
  work=(--config=configs/bench_gpu.py --peer_compile)
  if [ $tiny ]; then
    work=(--config=configs/debug.py)
  fi
  part 150 peer env XLA_PYTHON_CLIENT_PREALLOCATE=false "$PY" tools/bench.py "${work[@]}" \
    --synthetic_segments=4 --config.train.batch_size=1 --steps=6 \
    --peer=transformers --save="$OUT/peer.json"
fi
"$PY" -m bench.gpu.part table 2>&1 | tail -c 11000
echo "used $(($(date +%s) - T0)) s"
