"""The Ray engine: each run is a task, somewhere on a cluster or in Ray processes of this machine.

A task is the run function around its run directory, which lies where every node sees it. What a person
is shown is read there, too: a task sends nothing before it ends, and no epoch is counted twice. A
run that has lost its node goes on elsewhere from its last committed epoch.

Ray is an extra, takes seconds to import, and reads some of its environment then: it is imported
where it is needed.
"""

import hashlib
import multiprocessing
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich.console import Console

from dcgan import rundir
from dcgan.commands import BadInput
from experiments import launch, progress, signals
from experiments.grid import Run
from experiments.run import Job

ROOT = Path(__file__).resolve().parents[1]
RETRIES = 3  # of a run whose node or worker is lost
OWNER_SECONDS = 180.0  # for the lock of a lost node: an NFS server keeps it for 90 s
REACH_SECONDS = 5.0  # for the head of a cluster to take a connection
START_SECONDS = 180.0  # for a node to import PyTorch
LOOK_SECONDS = 0.5  # between two looks at what is committed
STORE_BYTES = 75 << 20  # the least that Ray takes: nothing large passes through it
BITS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_")
QUIET = {"log_to_driver": False, "logging_level": "ERROR"}


def places(device: str, threads: int, out: Path, address: str | None, gpus_per_run: float) -> int:
    """Runs at a time that there is room for: on the cluster, or on this machine without one.

    Raises BadInput where the nodes are not what a study in `out` needs; creates nothing.
    """
    demand = _demand(device, threads, gpus_per_run)
    if address is None:
        import torch

        here = {"CPU": launch.cores(), "GPU": torch.cuda.device_count()}
        return max(1, _room(here, demand))
    _connect(address)
    nodes = _nodes(demand)
    _check(nodes, out.absolute())
    return sum(_room(node["Resources"], demand) for node in nodes)


def execute(
    plan: launch.Plan, console: Console, address: str | None, gpus_per_run: float
) -> dict[str, str]:
    """Run what is missing on the cluster at this address, or on one that is started here.

    Returns why runs failed, by name; raises BadInput. A run that fails does not stop the others,
    one whose node or worker is lost is tried again. Leaving through an exception ends the tasks.
    """
    job = plan.jobs[0]
    demand = _demand(job.device, job.threads, gpus_per_run)
    cluster = nullcontext(address) if address else _started_here(plan.places * job.threads)
    with cluster as found:
        _connect(found)
        try:
            _check(_nodes(demand), plan.folder.absolute() / "study.json")
            return _execute(plan, console, demand)
        finally:
            import ray

            ray.shutdown()


def _execute(plan: launch.Plan, console: Console, demand: dict[str, float]) -> dict[str, str]:
    import ray

    # Ray logs the environment of a process: what may be secret goes with the task.
    given = {key: value for key, value in os.environ.items() if key.startswith("WANDB_")}
    task = ray.remote(max_retries=0, runtime_env=_environment(), **demand)(_work)
    waiting, state = launch.begin(plan)
    at_work: dict[ray.ObjectRef, tuple[Run, Job]] = {}
    told = dict(zip(map(str, plan.runs), plan.committed, strict=True))  # epochs of each run
    losses = Counter[str]()
    with progress.shown(state, console) as show:
        while waiting or at_work:
            # Fill the free places.
            while waiting and len(at_work) < plan.places:
                run, job = waiting.pop()
                state.rows.setdefault(str(run), {"epoch": "starting", "numbers": ""})
                at_work[task.remote(_for_all_nodes(job), given)] = run, job

            # Look at what is committed; then hear from the tasks that have ended.
            ended, _ = ray.wait(list(at_work), timeout=LOOK_SECONDS)
            for run, job in at_work.values():
                for message in _committed_after(told[str(run)], job):
                    told[str(run)] += 1
                    launch.hear(state, run, message, show)
            for reference in ended:
                run, job = at_work.pop(reference)
                messages = _outcome(reference)
                if "lost" in messages[0] and losses[str(run)] < RETRIES:
                    losses[str(run)] += 1
                    event = f"{messages[0]['lost']}; goes on after epoch {told[str(run)]}"
                    state.rows[str(run)] = {"epoch": "again", "numbers": event}
                    show(run, event)
                    waiting.append((run, job))
                    continue
                for message in messages:
                    launch.hear(state, run, message, show)
                launch.end(state, run, messages[0].get("lost", ""), show)
    return launch.finish(state)


def _outcome(reference: Any) -> list[dict[str, Any]]:
    """What an ended task has to say beside its epochs, or [{"lost": what it has lost}]."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # it could not begin: an import failed, say
        return [{"failed": _line(error.cause)}]
    except ray.exceptions.NodeDiedError:
        return [{"lost": "its node is lost"}]
    except ray.exceptions.OutOfMemoryError:
        return [{"lost": "Ray ended its worker, for the node had no memory left"}]
    except ray.exceptions.RayError:
        return [{"lost": "its worker is lost"}]


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
    """The same job by paths that mean the same on every node."""
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


def _room(resources: dict[str, float], demand: dict[str, float]) -> int:
    """Runs at a time for which a node has room."""
    room = int(resources.get("CPU", 0) // demand["num_cpus"])
    if share := demand["num_gpus"]:
        gpus = int(resources.get("GPU", 0))
        room = min(room, gpus * int(1 / share) if share <= 1 else int(gpus / share))
    return room


def _nodes(demand: dict[str, float]) -> list[dict[str, Any]]:
    """The nodes that have room for a run."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    if found := [node for node in alive if _room(node["Resources"], demand)]:
        return found
    wanted = f"{demand['num_cpus']} CPUs and {demand['num_gpus']} GPUs"
    raise BadInput(f"none of the {len(alive)} nodes of the cluster has {wanted} for a run")


def _check(nodes: list[dict[str, Any]], path: Path) -> None:
    """Compare what every node sees with what is here; raises BadInput with the node's name."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

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

    A file is told by its content. What does not exist yet is told by the folder that will hold it,
    which has one inode wherever it is seen from.
    """
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        content = hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.is_file() else ""
        found = {str(path): content or f"inode {path.stat().st_ino}"}
    except OSError as error:
        found = {str(path): f"not readable ({error.strerror})"}
    return found | {"commit": launch.commit(), **launch.versions()}


def _connect(address: str) -> None:
    """Connect to a running cluster of which this machine is a node; raises BadInput."""
    _reach(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return
    try:
        ray.init(address, **QUIET)
    except ConnectionError as error:
        why = "none runs on this machine" if address == "auto" else "what answers there is none"
        raise BadInput(f"--ray-address {address}: no cluster, for {why}") from error
    except (RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise BadInput(f"--ray-address {address}: {_line(error)}") from error
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


@contextmanager
def _started_here(cpus: int) -> Iterator[str]:
    """A cluster of this machine alone, which nobody else can reach; its address.

    A process of its own starts it, and ends it however this one ends.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # listen on the loopback only
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_head, args=(there, cpus))
    with signals.unheard():
        process.start()
    there.close()
    try:
        answer = here.recv()
        if "failed" in answer:
            raise BadInput(f"Ray could not be started: {answer['failed']}")
        yield answer["address"]
    except EOFError as error:
        raise BadInput("Ray could not be started: its process has ended") from error
    finally:
        here.close()
        process.join()


def _head(starter: Connection, cpus: int) -> None:
    """The body of the process that starts Ray here; it ends with the connection to its starter."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.HEARD)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # Ray tells of every signal there
    folder = tempfile.mkdtemp(prefix="ray-")
    import ray

    try:
        started = ray.init(
            "local",
            num_cpus=cpus,
            object_store_memory=STORE_BYTES,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
            **QUIET,
        )
        starter.send({"address": started.address_info["gcs_address"]})
        starter.poll(None)
    except Exception as error:
        starter.send({"failed": _line(error)})
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _line(error: BaseException | None) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
