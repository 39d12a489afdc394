"""launch/: sound scripts, YAML as its readers expect it, and commands that the program takes."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from jaxsft.errors import LOST_PEER, STOPPED
from jaxsft.rundir.checkpoint import files

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
JOBSETS = ("gke_tpu.yaml", "gke_gpu.yaml")
# Says with which arguments it was started, as the first of a list of them.
FAKE = """#!/usr/bin/env bash
printf '%s\\n' "$(basename "$0")" "$@" | python3 -c 'import json, sys
print(json.dumps(sys.stdin.read().splitlines()))' >> "$FAKES/calls.jsonl"
"""
# Ends with the codes of codes.txt, one for each `train`; lists step 20, for one that is listed.
GCLOUD = """
if [ "$1 $2" = "storage ls" ]; then
  echo "${3/\\*/20}"
elif [[ $* == *jaxsft.train* ]] && [ -s "$FAKES/codes.txt" ]; then
  code=$(sed -n 1p "$FAKES/codes.txt")
  sed -i 1d "$FAKES/codes.txt"
  exit "$code"
fi
"""
NOTHING_IGNORED = """
import os, signal, sys
signal.signal(signal.SIGUSR1, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])
"""
PARSE = """
import sys
import jaxsft.cli.programs.train
from jaxsft.cli import flags
config = flags.parse(sys.argv, ("workdir",))
print(flags.flags.FLAGS.workdir, config.model.source)
"""


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """A folder at the head of PATH whose programs note their arguments in calls.jsonl."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKES", str(tmp_path))
    bodies = {"scontrol": 'echo "node1"\n', "python": "", "scancel": "", "gcloud": GCLOUD}
    for name, body in bodies.items():
        (tmp_path / name).write_text(FAKE + body)
        (tmp_path / name).chmod(0o755)
    # srun starts its command once for each task; here for task 1 of several.
    (tmp_path / "srun").write_text(
        '#!/usr/bin/env bash\n[ "$1" = --kill-on-bad-exit=1 ] && shift\n'
        'SLURM_PROCID=1 "$@"\neval "${SRUN_DOES:-}"\nexit "${SRUN_CODE:-0}"\n'
    )
    (tmp_path / "srun").chmod(0o755)
    return tmp_path


def calls(fakes: Path, program: str) -> list[list[str]]:
    file = fakes / "calls.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [line[1:] for line in lines if line[0] == program]


def assert_the_program_takes(arguments: list[str]) -> None:
    """The flags after `-m jaxsft.train`, parsed as the program would."""
    assert arguments[:2] == ["-m", "jaxsft.train"], arguments
    done = subprocess.run(
        [sys.executable, "-c", PARSE, *arguments[2:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", ["local.sh", "tpu_vm.sh", "slurm.sbatch", "restarts.sh"])
def test_shellcheck_has_nothing_to_say(script):
    shellcheck = Path(sys.executable).with_name("shellcheck")
    command = [shellcheck, "-x", f"launch/{script}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_launcher_opens_with_its_run_card():
    for path in sorted(LAUNCH.iterdir()):
        head = path.read_text().split("\n\n")[0]
        assert re.search(r"^# +(command|train) ", head, re.M), path


@pytest.mark.parametrize("name", JOBSETS)
def test_a_jobset_is_what_its_api_expects(name):
    value = yaml.safe_load((LAUNCH / name).read_text())
    schema = json.loads(Path(__file__).with_name("jobset.schema.json").read_text())
    jsonschema.validate(value, schema)
    (job,) = value["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert spec["completions"] == spec["parallelism"]
    # The first rule that fits a pod decides: one that the cluster ended may have any code.
    lost, rule = spec["podFailurePolicy"]["rules"]
    assert lost == {"action": "Count", "onPodConditions": [{"type": "DisruptionTarget"}]}
    (container,) = spec["template"]["spec"]["containers"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"] == {
        "containerName": container["name"],
        "operator": "NotIn",
        "values": [STOPPED, LOST_PEER],
    }
    python, *arguments = container["command"]
    assert python == "python"
    assert_the_program_takes([a.replace("$(JOB_COMPLETION_INDEX)", "1") for a in arguments])
    if name == "gke_gpu.yaml":
        first = f"{value['metadata']['name']}-{job['name']}-0-0.{value['metadata']['name']}"
        assert any(a.startswith(f"--coordinator_address={first}:") for a in arguments)
        assert f"--num_processes={spec['completions']}" in arguments


def test_skypilot_starts_the_program_on_each_node(fakes, monkeypatch, tmp_path):
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert set(task) == {
        *("name", "num_nodes", "resources", "workdir", "file_mounts", "envs", "setup", "run"),
    }
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75, 76]
    nodes = {"NODE_IPS": "10.0.0.1\n10.0.0.2", "NUM_NODES": "2", "NODE_RANK": "1"}
    for name, value in ({f"SKYPILOT_{k}": v for k, v in nodes.items()} | task["envs"]).items():
        monkeypatch.setenv(name, value)
    run = task["run"].replace(".venv/bin/python", "python")
    subprocess.run(["bash", "-euc", run], check=True, cwd=tmp_path)
    (arguments,) = calls(fakes, "python")
    assert arguments[-3:] == [
        "--coordinator_address=10.0.0.1:29400",
        "--num_processes=2",
        "--process_id=1",
    ]
    assert_the_program_takes(arguments)


@pytest.fixture
def submitted_from(tmp_path_factory, monkeypatch):
    """A folder with launch/, where the script leaves what it counts."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "launch").symlink_to(LAUNCH)
    monkeypatch.setenv("SLURM_SUBMIT_DIR", str(folder))
    return folder


def slurm(
    tasks_per_node: int, *more: str, workdir: Path | str = "/shared/a run", **environment: str
) -> subprocess.CompletedProcess[str]:
    job = {
        "SLURM_NTASKS_PER_NODE": str(tasks_per_node),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_ID": "77",
        "PYTHON": "python",
    }
    flags = ("--config=configs/debug.py", f"--workdir={workdir}", *more)
    # What a test before this one made this process ignore, a shell could not trap.
    return subprocess.run(
        [sys.executable, "-c", NOTHING_IGNORED, "bash", LAUNCH / "slurm.sbatch", *flags],
        env=os.environ | job | environment,
        capture_output=True,
        text=True,
    )


def test_slurm_with_a_task_for_each_gpu_leaves_the_rest_to_jax(fakes, submitted_from):
    assert slurm(8).returncode == 0
    (arguments,) = calls(fakes, "python")
    grace = "--config.checkpoint.grace_seconds=280"
    assert arguments[2:] == [grace, "--config=configs/debug.py", "--workdir=/shared/a run"]
    assert_the_program_takes(arguments)


def test_slurm_leaves_the_seconds_for_the_end_to_who_names_them(fakes, submitted_from):
    seconds = "--config.checkpoint.grace_seconds=30"
    assert slurm(8, seconds).returncode == 0
    (arguments,) = calls(fakes, "python")
    assert arguments[2:] == ["--config=configs/debug.py", "--workdir=/shared/a run", seconds]


def test_slurm_with_a_task_for_each_node_tells_each_its_number(fakes, submitted_from):
    assert slurm(1).returncode == 0
    (arguments,) = calls(fakes, "python")
    assert arguments[2:6] == [
        "--coordinator_address=node1:20077",
        "--num_processes=2",
        "--config.checkpoint.grace_seconds=280",
        "--config=configs/debug.py",
    ]
    assert arguments[-1] == "--process_id=1"
    assert_the_program_takes(arguments)


@pytest.mark.parametrize(("code", "again"), [(75, True), (76, True), (65, False), (0, False)])
def test_slurm_is_asked_to_start_again_where_that_helps(fakes, submitted_from, code, again):
    assert slurm(8, SRUN_CODE=str(code)).returncode == code
    assert (["requeue", "77"] in calls(fakes, "scontrol")) == again


def test_slurm_is_not_asked_again_after_starts_in_vain(fakes, submitted_from):
    """Each is another run of the script, of the same job."""
    workdir = submitted_from / "w"
    for step, requeues in ((5, 1), (6, 2), (None, 3), (None, 4), (None, 4), (None, 4)):
        if step is not None:
            committed = workdir / "checkpoints" / str(step) / files.COMMITTED
            committed.parent.mkdir(parents=True)
            committed.touch()
        slurm(8, workdir=workdir, SRUN_CODE="76", MAX_RESTARTS="3")
        assert calls(fakes, "scontrol").count(["requeue", "77"]) == requeues
    assert (submitted_from / "slurm-77.restarts").read_text() == "6 5\n"


def test_a_signal_to_slurms_script_goes_to_the_processes(fakes, submitted_from):
    """--signal=B:USR1@60; srun would take a SIGTERM of its own for a wish to kill them."""
    heard = 'for i in $(seq 100); do grep -q scancel "$FAKES/calls.jsonl" && break; sleep 0.1; done'
    done = slurm(8, SRUN_DOES=f"kill -USR1 $PPID; {heard}", SRUN_CODE="75")
    assert done.returncode == 75, done.stderr
    assert calls(fakes, "scancel") == [["--signal=TERM", "77"]]
    assert ["requeue", "77"] in calls(fakes, "scontrol")


def test_tpu_vm_starts_again_while_checkpoints_get_newer(fakes, monkeypatch):
    """Of a run in a bucket gcloud tells them; here there is never one after step 20."""
    monkeypatch.setenv("MAX_RESTARTS", "2")
    (fakes / "sleep").write_text("#!/bin/sh\n")
    (fakes / "sleep").chmod(0o755)
    (fakes / "codes.txt").write_text("75\n76\n76\n75\n")
    script = [LAUNCH / "tpu_vm.sh", "train", "slice", "zone", "--workdir=gs://bucket/w"]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 76
    assert "MAX_RESTARTS=2 restarts since the checkpoint of step 20" in done.stderr
    listed = [call for call in calls(fakes, "gcloud") if call[0] == "storage"]
    pattern = f"gs://bucket/w/checkpoints/*/{files.COMMITTED}"
    assert listed == [["storage", "ls", pattern]] * 3


def test_tpu_vm_stays_stopped(fakes, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stop = shlex.join([str(LAUNCH / "tpu_vm.sh"), "stop", "slice", "zone"])
    (fakes / "gcloud").write_text(
        "#!/usr/bin/env bash\n[[ $* != *jaxsft.train\\ * ]] || { " + stop + "; exit 75; }\n"
    )
    script = [LAUNCH / "tpu_vm.sh", "train", "slice", "zone", "--workdir=gs://bucket/w"]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60)
    assert done.returncode == 75 and "again" not in done.stderr


def test_tpu_vm_starts_the_same_command_on_all_hosts(fakes):
    script = [LAUNCH / "tpu_vm.sh", "train", "slice", "zone"]
    flags = ["--config=configs/debug.py", "--workdir=gs://bucket/a run"]
    subprocess.run([*script, *flags], check=True)
    (arguments,) = calls(fakes, "gcloud")
    assert arguments[:-1] == [
        *("compute", "tpus", "tpu-vm", "ssh", "slice", "--zone=zone", "--worker=all"),
    ]
    _, _, command = arguments[-1].partition("--command=cd jaxsft && exec .venv/bin/python ")
    assert shlex.split(command) == ["-m", "jaxsft.train", *flags]
    assert_the_program_takes(shlex.split(command))


def test_tpu_vm_asks_for_a_queued_resource(fakes, monkeypatch):
    monkeypatch.setenv("CREATE_FLAGS", "--spot")
    subprocess.run([LAUNCH / "tpu_vm.sh", "create", "slice", "zone", "v6e-16"], check=True)
    (arguments,) = calls(fakes, "gcloud")
    assert arguments[:4] == ["compute", "tpus", "queued-resources", "create"]
    assert arguments[-1] == "--spot" and "--accelerator-type=v6e-16" in arguments


def test_tpu_vm_shows_how_it_is_used(fakes):
    done = subprocess.run([LAUNCH / "tpu_vm.sh", "frob"], capture_output=True, text=True)
    assert done.returncode == 64
    assert "train      launch/tpu_vm.sh train NAME ZONE" in done.stderr
