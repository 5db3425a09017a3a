"""A process that has imported everything once and forks a child for each request: real runs.

It is started with shim.c preloaded, reads one request a line and answers with one line, both JSON:

    {"do": "run", "jobs": [...], "info": {...}, "watch": [...], "kill_after": 0.2, "states": 2}
    {"status": -9, "result": null}          a child that was killed
    {"status": 0, "result": {"calls": 71, "error": null}}

A child does what `make ablation` does with a study: owns it, writes study.json, makes its runs.
"""

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dcgan import rundir
from dcgan.config import Config
from dcgan.data import canonical, keep
from experiments.run import Job, run

SHIM = ctypes.CDLL(None)


def make_study(request: dict[str, Any]) -> dict[str, Any]:
    """Make the runs of a study; returns what became of it, and the calls that were counted."""
    error = None
    rundir.STATES_KEPT = request.get("states", rundir.STATES_KEPT)
    jobs = [
        Job(Config(**job["config"]), *map(Path, job["paths"]), 16, "cpu", 1, False, "disabled")
        for job in request["jobs"]
    ]
    folder, how, number, code, kinds, trace = request["watch"]
    names = [text and text.encode() for text in (folder, kinds, trace)]
    SHIM.shim_watch(names[0], how, ctypes.c_long(number), code, names[1], names[2])

    try:
        with rundir.owned(jobs[0].study):
            path = jobs[0].study / "study.json"
            if path.exists():
                rundir.unseal(path)
            rundir.replace(path, rundir.seal(request["info"]))
            for job in jobs:

                def tell(message: dict[str, Any], job: Job = job) -> None:
                    SHIM.shim_mark(f"{job.folder}\t{message['record']['epoch']}".encode())

                run(job, tell)
    except Exception as caught:
        error = [[each.__name__ for each in type(caught).__mro__], str(caught)]
    return {"calls": SHIM.shim_calls(), "error": error}


def keep_images(request: dict[str, Any]) -> str:
    """Put images of noise into a cache; returns their SHA-256."""
    stream = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (40, 16, 16, 3), dtype=torch.uint8, generator=stream)
    images = canonical("noise", pixels.numpy(), torch.zeros(40, dtype=torch.int64).numpy())
    keep(images, Path(request["cache"]), 16)
    return images.sha256


TASKS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "run": make_study,
    "images": keep_images,
}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do one request in a child, which may be killed after some seconds."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            result = json.dumps(TASKS[request["do"]](request))
            os.write(writer, result.encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(70)
    os.close(writer)

    end = time.monotonic() + request.get("kill_after", 1e9)
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.001)
    with os.fdopen(reader) as file:
        result = file.read()
    status = os.waitstatus_to_exitcode(ended[1])
    return {"status": status, "result": json.loads(result) if result else None}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
