#!/usr/bin/env bash
# Puts the wheels that a machine with jax and torch may lack (Python 3.12, x86-64) into DIR/whl and
# DIR/whl_newer: get_wheels.sh DIR
set -euo pipefail
dir=$1
mkdir -p "$dir/whl" "$dir/whl_newer"
get() {
  python3 -m pip download -q --no-deps --only-binary=:all: \
    --python-version 3.12 --implementation cp --abi cp312 --abi abi3 --abi none \
    --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 \
    --platform manylinux_2_17_x86_64 --platform any -d "$@"
}
get "$dir/whl" array_record==0.8.6 grain==0.2.18 gguf==0.19.0 cloudpickle==3.1.3 portpicker==1.6.0
# Used only where the machine's are older.
get "$dir/whl_newer" orbax-checkpoint==0.12.8 flax==0.12.12 optax==0.2.8
ls -l "$dir"/whl*
