"""A process that has imported everything once and forks a child for each request: real runs.

It is started with shim.c preloaded, reads one request a line and answers with one line, both JSON:

    {"do": "run", "jobs": [...], "info": {...}, "watch": [...], "kill_after": 0.2, "states": 2}
    {"status": -9, "result": null}          a child that was killed
    {"status": 0, "result": {"calls": 71, "error": null, "epochs": 4, "seconds": 0.4}}

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

from dcgan import rundir, train
from dcgan.config import Config
from dcgan.data import canonical, keep
from experiments.run import Job, run

SHIM = ctypes.CDLL(None)


def make_study(request: dict[str, Any]) -> dict[str, Any]:
    """Make the runs of a study; returns what became of it, and the calls that were counted."""
    began, told, error = time.perf_counter(), [], None
    rundir.STATES_KEPT = request.get("states", rundir.STATES_KEPT)
    jobs = [
        Job(Config(**job["config"]), *map(Path, job["paths"]), 16, "cpu", 1, False, "disabled")
        for job in request["jobs"]
    ]
    if request.get("watch"):
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
                    told.append(message["record"]["epoch"])
                    SHIM.shim_mark(f"{job.folder}\t{told[-1]}".encode())

                run(job, tell)
    except Exception as caught:
        error = [[each.__name__ for each in type(caught).__mro__], str(caught)]
    calls, seconds = SHIM.shim_calls(), time.perf_counter() - began
    return {"calls": calls, "error": error, "epochs": len(told), "seconds": seconds}


def keep_images(request: dict[str, Any]) -> str:
    """Put images of noise into a cache; returns their SHA-256."""
    stream = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (40, 16, 16, 3), dtype=torch.uint8, generator=stream)
    images = canonical("noise", pixels.numpy(), torch.zeros(40, dtype=torch.int64).numpy())
    keep(images, Path(request["cache"]), 16)
    return images.sha256


def forget_each_key(request: dict[str, Any]) -> dict[str, list[str]]:
    """Which keys of a state can be lost in silence: nothing is raised, and no byte differs.

    `dropped` and `renamed`: from the file alone; `forgotten`: by whoever writes and reads it.
    """
    from safetensors.torch import load, save

    config = Config(**request["config"])
    pixels = torch.from_numpy(_open_images(request)).clone()
    data, later = (Path(path).read_bytes() for path in (request["state"], request["next"]))
    every, saved = train._tensors, load(data)

    def goes_on(content: bytes) -> bytes:
        state = train.load_state(content, config)
        train._tensors = every
        train.train_epoch(state, config, pixels)
        return train.dump_state(state)

    assert goes_on(data) == later
    silent: dict[str, list[str]] = {"keys": list(saved), "dropped": [], "renamed": []}
    silent["forgotten"] = []
    for key in saved:
        rest = {name: tensor for name, tensor in saved.items() if name != key}
        for harm, content in ("dropped", rest), ("renamed", {**rest, f"{key}_": saved[key]}):
            try:
                train.load_state(save(content), config)
            except ValueError:
                continue
            silent[harm].append(key)

        # A key that the code forgets on both sides shows in the epoch that follows.
        train._tensors = lambda state, key=key: {k: t for k, t in every(state).items() if k != key}
        try:
            if goes_on(save(rest)) == later:
                silent["forgotten"].append(key)
        except KeyError:
            pass  # no epoch at all
        finally:
            train._tensors = every
    return silent


def _open_images(request: dict[str, Any]) -> Any:
    from dcgan.data import load_cached

    return load_cached(Path(request["cache"]), request["config"]["data_sha256"], 16).pixels


def measure_cost(request: dict[str, Any]) -> dict[str, float]:
    """Seconds of rundir.commit and of an epoch at one size; the epoch is extrapolated.

    The epoch is its training alone, by the best of a few steps on few images, so that the share of
    the commit is rather too high than too low.
    """
    config = Config(**request["config"])
    torch.set_num_threads(1)
    batch = min(config.batch, 32)
    steps = config.model_copy(update={"images": batch, "batch": batch})
    state = train.start(config)
    shape = (batch, config.resolution, config.resolution, 3)
    pixels = torch.zeros(shape, dtype=torch.uint8)
    train.train_epoch(state, steps, pixels)
    seconds = []
    for _ in range(request["steps"]):
        began = time.perf_counter()
        train.train_epoch(state, steps, pixels)
        seconds.append(time.perf_counter() - began)

    began = time.perf_counter()
    content = {rundir.RECORD: b"{}", rundir.TIMING: b"{}", rundir.SAMPLES: bytes(300_000)}
    content[rundir.STATE] = train.dump_state(state)
    dumped = time.perf_counter() - began
    commits = []
    for epoch in range(1, request["commits"] + 1):
        began = time.perf_counter()
        rundir.commit(Path(request["folder"]), epoch, content)
        rundir.prune(Path(request["folder"]), epoch)
        commits.append(time.perf_counter() - began)
    began = time.perf_counter()
    rundir.last_state(Path(request["folder"]))
    return {
        "bytes": len(content[rundir.STATE]),
        "dump": dumped,
        "commit": sorted(commits)[len(commits) // 2],
        "slowest": max(commits),
        "found": time.perf_counter() - began,
        "epoch": min(seconds) * config.images / batch,
    }


TASKS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "run": make_study,
    "images": keep_images,
    "keys": forget_each_key,
    "cost": measure_cost,
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
