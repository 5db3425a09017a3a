"""A process that has imported everything once and forks the command line for each request.

It reads one request a line and answers with one line, both JSON:

    {"words": ["--seeds", "1"], "log": "out/1", "environ": {...},
     "report": false, "patience": 5}                               ->  {"pid": 123}
    {"wait": 123, "seconds": 60}                                   ->  {"code": 0}

A command's output goes to <log>.out and <log>.err. It is `python -m experiments ablation` but for
its imports, maybe without a report, and with the seconds that a run waits for W&B; its workers are
forked from it and not from a server of their own, which would import everything again.
"""

import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from typing import Any

from experiments import __main__ as command
from experiments import plan, signals, study, tracking  # noqa: F401

FORK = multiprocessing.get_context("fork")


def start(request: dict[str, Any]) -> int:
    """Fork a command; its process id, which is that of a process group and a session too."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        for number, name in (1, "out"), (2, "err"):
            file = os.open(f"{request['log']}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(request["environ"])
        sys.argv = ["experiments", "ablation", *request["words"]]
        signals.workers = lambda module: FORK
        if not request["report"]:
            study.report = lambda folder: 0
        tracking.PATIENCE = request["patience"]
        signals.listen()
        code = command.main()
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int, seconds: float) -> int | None:
    """The exit code of a command; None for one that did not end in time, and was killed."""
    end = time.monotonic() + seconds
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        time.sleep(0.005)
    return os.waitstatus_to_exitcode(ended[1])


if __name__ == "__main__":
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            answer = {"code": wait(asked["wait"], asked["seconds"])}
        else:
            answer = {"pid": start(asked)}
        print(json.dumps(answer), flush=True)
