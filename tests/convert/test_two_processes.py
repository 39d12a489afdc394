"""Two processes that each hold half of a model write the file that one process would."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jaxsft

PROGRAM = Path(__file__).with_name("two_processes.py")
ROOT = PROGRAM.parent.parent.parent


PARTS = {"2": [2, 16, 2, 8], "4": [2, 8, 4, 8]}  # of q_LDNH [2, 32, 4, 8], by devices along fsdp


def test_two_processes_read_half_each_and_export_what_one_does(save_llama, tmp_path):
    directory, _ = save_llama(num_key_value_heads=2)
    alone = jaxsft.save_model(jaxsft.load_model(directory), tmp_path / "alone").directory
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    flags = environment["XLA_FLAGS"].split()  # the program says itself how many devices it has
    environment["XLA_FLAGS"] = " ".join(flag for flag in flags if "device_count" not in flag)
    together = tmp_path / "together"
    processes = [
        subprocess.Popen(
            [sys.executable, PROGRAM, address, str(index), directory, together, *PARTS],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        lines = [json.loads(line) for line in out.splitlines() if line.startswith("[[[")]
        for part, (parts, read, there) in zip(PARTS.values(), lines, strict=True):
            assert parts == [part] * 2
            assert read == there // 2
    for fsdp in PARTS:
        for name in ("model.safetensors", "config.json", "README.md"):
            assert (together / fsdp / name).read_bytes() == (alone / name).read_bytes()
