"""The Ray engine: each run is a task, on a running cluster or on Ray started here.

A run directory lies where every node sees it. A run that has lost its node is started again by Ray,
and goes on from its last committed epoch. Ray is an extra, and is imported where it is needed.
"""

import os
import signal
import socket
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from dcgan import rundir
from dcgan.cli import BadInput, first_line
from experiments import launch, signals
from experiments.plan import Plan
from experiments.run import Job

RETRIES = 3  # of a run whose node or worker is lost
OWNER_SECONDS = 180  # for the lock of a lost node: an NFS server keeps it for 90 s
CONNECT_SECONDS = 5.0  # for the head of a cluster to answer
STORE_BYTES = 75 << 20  # the least that Ray accepts: nothing large passes through it
BITS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_")


def max_parallel(device: str, threads: int, ray_address: str | None, gpus_per_run: float) -> int:
    """Runs at a time for which the cluster or this machine has resources; raises BadInput."""
    if ray_address is None:
        import torch

        resources = {"CPU": launch.cores(), "GPU": torch.cuda.device_count()}
    else:
        _connect(ray_address)
        import ray

        resources = ray.cluster_resources()
    demand = {"CPU": threads} | ({} if device == "cpu" else {"GPU": gpus_per_run})
    count = min(int(resources.get(kind, 0) / share) for kind, share in demand.items())
    if ray_address and not count:
        raise BadInput(f"--ray-address {ray_address}: no run fits there, each takes {demand}")
    return max(1, count)


def execute(
    plan: Plan, console: Console, ray_address: str | None, gpus_per_run: float
) -> dict[str, str]:
    """Run what is missing on the cluster at this address, or on Ray started here.

    Returns why runs failed, by name; raises BadInput. Leaving through an exception ends the tasks.
    """
    threads, device = plan.jobs[0].threads, plan.jobs[0].device
    _connect(ray_address, plan.max_parallel * threads)
    import ray

    # Ray logs the environment of a process: what may be secret goes with the task.
    given = {key: value for key, value in os.environ.items() if key.startswith("WANDB_")}
    demand = {"num_cpus": threads, "num_gpus": 0 if device == "cpu" else gpus_per_run}
    options = {"max_retries": RETRIES, "max_calls": 1, "runtime_env": _environment(), **demand}
    task = ray.remote(**options)(_work)
    try:
        return launch.run_all(
            plan,
            console,
            lambda job: task.remote(replace(job, folder=job.folder.absolute()), given),
            lambda tasks: ray.wait(tasks, timeout=launch.POLL_SECONDS)[0],
            _outcome,
        )
    finally:
        ray.shutdown()


def _outcome(task: Any) -> dict[str, str]:
    """What an ended task returned, or why it could not."""
    import ray

    try:
        return ray.get(task)
    except ray.exceptions.RayError as error:  # an import failed, or its node was lost too often
        return {"failed": first_line(getattr(error, "cause", error))}


def _work(job: Job, environ: dict[str, str]) -> dict[str, str]:
    """The body of a task: one run, and its outcome."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray's raises, which would pass for a failure
    os.environ.update(environ)

    # The lock of a lost node's process gets time to go; the run names one that stays.
    for _ in range(OWNER_SECONDS):
        with suppress(rundir.Busy), rundir.owned(job.folder):
            break
        time.sleep(0.5)  # beside the half second that `owned` takes
    return launch.attempt(job)


def _environment() -> dict[str, dict[str, str]]:
    """What Ray starts processes with, so that they find this code and compute the same bits."""
    path = os.pathsep.join(filter(None, [str(launch.ROOT.resolve()), os.environ.get("PYTHONPATH")]))
    given = {name: os.environ[name] for name in BITS if name in os.environ}
    if weights := os.environ.get("INCEPTION_WEIGHTS"):
        given["INCEPTION_WEIGHTS"] = str(Path(weights).absolute())
    return {"env_vars": {"PYTHONPATH": path, **given}}


def _connect(address: str | None, cpus: int | None = None) -> None:
    """Join a cluster of which this machine is a node, or start Ray here, unless that is done.

    What is started here listens on the loopback only, and ends with this process. Raises BadInput.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if not address:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # no other machine joins
        options |= {"num_cpus": cpus, "object_store_memory": STORE_BYTES}
        options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    import ray  # which reads its environment

    if ray.is_initialized():
        return
    try:
        if address not in (None, "auto"):  # for which Ray itself would wait a minute
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        ray.init(address or "local", **options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        asked = f"--ray-address {address}" if address else "--engine ray"
        raise BadInput(f"{asked}: no Ray answers there ({first_line(error)})") from error
    finally:
        signals.listen()  # again, for Ray has a handler of its own
    signals.endings.append(ray.shutdown)
