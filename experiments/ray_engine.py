"""The Ray engine: each run is a task, on a cluster that runs already or on Ray started here.

A task is the run function around its run directory, which lies where every node sees it. What a
person is shown is read there, too: a task sends nothing before it ends, and no epoch is counted
twice. A run that has lost its node is started again by Ray, and goes on from its last committed
epoch.

Ray is an extra, takes seconds to import, and reads some of its environment then: it is imported
where it is needed.
"""

import hashlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from dcgan import rundir
from dcgan.cli import BadInput
from experiments import launch, progress, signals
from experiments.grid import Run
from experiments.plan import Plan
from experiments.run import Job

ROOT = Path(__file__).resolve().parents[1]
RETRIES = 3  # of a run whose node or worker is lost
OWNER_SECONDS = 180.0  # for the lock of a lost node: an NFS server keeps it for 90 s
REACH_SECONDS = 5.0  # for the head of a cluster to take a connection
START_SECONDS = 180.0  # for a node to import PyTorch
LOOK_SECONDS = 0.5  # between two looks at what is committed
STORE_BYTES = 75 << 20  # the least that Ray takes: nothing large passes through it
BITS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_")


def max_parallel(
    device: str, threads: int, out: Path, address: str | None, gpus_per_run: float
) -> int:
    """Runs at a time for which the cluster has processors, or this machine without an address.

    Raises BadInput where a node is not what a study in `out` needs; creates nothing.
    """
    demand = _demand(device, threads, gpus_per_run)
    if address is None:
        import torch

        here = {"CPU": launch.cores(), "GPU": torch.cuda.device_count()}
        return max(1, _capacity(here, demand))
    _connect(address)
    _check_nodes(demand, out.absolute())
    return sum(_capacity(node["Resources"], demand) for node in _nodes(demand))


def execute(
    plan: Plan, console: Console, address: str | None, gpus_per_run: float
) -> dict[str, str]:
    """Run what is missing on the cluster at this address, or on Ray started here.

    Returns why runs failed, by name; raises BadInput. A run that fails does not stop the others,
    one whose node or worker is lost is tried again. Leaving through an exception ends the tasks.
    """
    job = plan.jobs[0]
    demand = _demand(job.device, job.threads, gpus_per_run)
    _connect(address, cpus=plan.max_parallel * job.threads)
    try:
        if address:
            _check_nodes(demand, plan.folder.absolute() / "study.json")
        return _execute(plan, console, demand)
    finally:
        import ray  # not before its environment is set

        ray.shutdown()


def _execute(plan: Plan, console: Console, demand: dict[str, float]) -> dict[str, str]:
    import ray

    # Ray logs the environment of a process: what may be secret goes with the task.
    given = {key: value for key, value in os.environ.items() if key.startswith("WANDB_")}
    options = {"max_retries": RETRIES, "max_calls": 1, "runtime_env": _environment(), **demand}
    task = ray.remote(**options)(_work)
    waiting, state = launch.begin(plan)
    at_work: dict[ray.ObjectRef, tuple[Run, Job]] = {}
    shown = dict(zip(map(str, plan.runs), plan.committed, strict=True))  # epochs of each run
    with progress.shown(state, console) as show:
        while waiting or at_work:
            # Start as many runs as there may be at a time.
            while waiting and len(at_work) < plan.max_parallel:
                run, job = waiting.pop()
                state.rows[str(run)] = progress.Row(plan.committed_of(run), run.config.epochs)
                at_work[task.remote(_for_all_nodes(job), given)] = run, job

            # Show what is committed; then hear from the tasks that have ended.
            ended, _ = ray.wait(list(at_work), timeout=LOOK_SECONDS)
            for run, job in at_work.values():
                for message in _committed_after(shown[str(run)], job):
                    shown[str(run)] += 1
                    launch.hear(state, run, message, show)
            for reference in ended:
                run, _ = at_work.pop(reference)
                for message in _outcome(reference):
                    launch.hear(state, run, message, show)
                launch.end(state, run, "ended early", show)
    return launch.finish(state)


def _outcome(reference: Any) -> list[dict[str, Any]]:
    """What an ended task has to say beside its epochs."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # it could not begin: an import failed, say
        return [{"failed": _line(error.cause)}]
    except ray.exceptions.RayError as error:
        return [{"failed": f"its node or worker was lost {RETRIES + 1} times: {_line(error)}"}]


def _committed_after(epoch: int, job: Job) -> Iterator[dict[str, Any]]:
    """The epochs of a run that were committed since this one, as the run itself tells of them."""
    while rundir.epoch_folder(job.folder, epoch := epoch + 1).exists():
        try:
            record = rundir.read_json(job.folder, epoch, rundir.RECORD)
            yield {"record": record, "timing": rundir.read_json(job.folder, epoch, rundir.TIMING)}
        except rundir.Damaged:  # or not to be seen here yet
            return


def _work(job: Job, environ: dict[str, str]) -> list[dict[str, Any]]:
    """The body of a task: one run; what it has to say beside its epochs."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray's raises, which would pass for a failure
    os.environ.update(environ)
    messages: list[dict[str, Any]] = []
    _wait_for_owner(job.folder)
    launch.attempt(job, messages.append)
    return [message for message in messages if "record" not in message]


def _wait_for_owner(folder: Path) -> None:
    """Give the lock of a lost node's process time to go; the run names one that stays."""
    end = time.monotonic() + OWNER_SECONDS
    while time.monotonic() < end:
        with suppress(rundir.Busy), rundir.owned(folder):
            return
        time.sleep(1)


def _for_all_nodes(job: Job) -> Job:
    """The job by paths that mean the same on every node."""
    paths = {name: getattr(job, name).absolute() for name in ("study", "folder", "cache")}
    return replace(job, **paths)


def _environment() -> dict[str, dict[str, str]]:
    """What Ray starts processes with, so that they find this code and compute the same bits."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    given = {name: os.environ[name] for name in BITS if name in os.environ}
    if weights := os.environ.get("INCEPTION_WEIGHTS"):
        given["INCEPTION_WEIGHTS"] = str(Path(weights).absolute())
    return {"env_vars": {"PYTHONPATH": path, **given}}


def _demand(device: str, threads: int, gpus_per_run: float) -> dict[str, float]:
    """What a run takes of its node."""
    return {"num_cpus": threads, "num_gpus": 0 if device == "cpu" else gpus_per_run}


def _capacity(resources: dict[str, float], demand: dict[str, float]) -> int:
    """Runs that a node can take at a time; none is spread over two GPUs that it shares."""
    capacity = int(resources.get("CPU", 0) // demand["num_cpus"])
    if share := demand["num_gpus"]:
        gpus = int(resources.get("GPU", 0))
        capacity = min(capacity, gpus * int(1 / share) if share <= 1 else int(gpus / share))
    return capacity


def _nodes(demand: dict[str, float]) -> list[dict[str, Any]]:
    """The nodes that can take a run; raises BadInput where there is none."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    if able := [node for node in alive if _capacity(node["Resources"], demand)]:
        return able
    wanted = f"{demand['num_cpus']} CPUs and {demand['num_gpus']} GPUs"
    raise BadInput(f"none of the {len(alive)} nodes of the cluster has {wanted} for a run")


def _check_nodes(demand: dict[str, float], path: Path) -> None:
    """Compare what every node sees with what is here; raises BadInput with the node's name."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    nodes = _nodes(demand)
    look = ray.remote(num_cpus=0, max_retries=0, runtime_env=_environment())(_look)
    seen = [
        look.options(scheduling_strategy=On(node["NodeID"], soft=False)).remote(path)
        for node in nodes
    ]
    end = time.monotonic() + START_SECONDS
    for node, reference in zip(nodes, seen, strict=True):
        name = f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        try:
            there = ray.get(reference, timeout=max(0, end - time.monotonic()))
        except ray.exceptions.RayError as error:
            raise BadInput(f"{name}: {_line(getattr(error, 'cause', error))}") from error
        for what, here in _look(path).items():
            if (other := there.get(what, "missing")) != here:
                raise BadInput(f"{name}: {what} is {other} there, and {here} here")


def _look(path: Path) -> dict[str, str]:
    """What must be the same on every node: the code, its packages, and the study's storage.

    A file is told by its content. What does not exist yet is told by the folder that it will be
    in, which has one inode wherever it is seen from.
    """
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        content = hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.is_file() else ""
        storage = {str(path): content or f"inode {path.stat().st_ino}"}
    except OSError as error:
        storage = {str(path): f"not readable ({error.strerror})"}
    return storage | {"commit": launch.commit(), **launch.versions()}


def _connect(address: str | None, cpus: int | None = None) -> None:
    """Join a running cluster of which this machine is a node, or start Ray here; BadInput.

    What is started here listens on the loopback only, and ends with this process.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address:
        _reach(address)
    else:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # no other machine joins
        options |= {"num_cpus": cpus, "object_store_memory": STORE_BYTES}
        options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    import ray

    if ray.is_initialized():
        return
    asked = f"--ray-address {address}" if address else "--engine ray"
    try:
        ray.init(address or "local", **options)
        if not address:  # Ray would end its processes in an exit handler, which a signal leaves out
            kill = ray._private.worker._global_node.kill_all_processes
            signals.endings.append(partial(kill, check_alive=False, allow_graceful=True))
    except ConnectionError as error:
        raise BadInput(f"{asked}: no cluster answers there") from error
    except (RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise BadInput(f"{asked}: {_line(error)}") from error
    finally:
        signals.listen()  # again, for Ray has a handler of its own


def _reach(address: str) -> None:
    """Refuse at once what Ray would wait for: raises BadInput where nobody listens."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if not host or not port.isdecimal() or "/" in host:
        raise BadInput(f"--ray-address {address}: is neither auto nor HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise BadInput(f"--ray-address {address}: nobody answers there ({error})") from error


def _line(error: BaseException | None) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
