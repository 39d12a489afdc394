"""The peers' side of the pipe; tools/bench/peer.py has the protocol. Needs nothing of jaxsft."""

import json
import re
import sys

_OUT = sys.stdout  # libraries that print reach the other end too; it takes lines that begin with {


def say(answer):
    print(json.dumps(answer), file=_OUT, flush=True)


def wait_for_step():
    """Returns at the next "step"; at "stop", or when nobody asks any more, the process ends."""
    for line in sys.stdin:
        if line.strip() == "step":
            return
        break
    say(memory())
    raise SystemExit


def serve(step):
    """Answers each "step" with what `step()` gives."""
    while True:
        wait_for_step()
        say(step())


def memory():
    """Not getrusage, whose peak begins with that of the process that started this one."""
    with open("/proc/self/status") as status:
        kilobytes = re.search(r"VmHWM:\s+(\d+) kB", status.read())
    return {"peak_memory_bytes": int(kilobytes[1]) * 1024}
