"""Whole studies on Ray, from the command line: two nodes on this machine, one of which is lost.

Apart from the rest of the suite, for Ray takes long to start: `make test-ray`.
"""

import re
import signal
from pathlib import Path

import pytest
from conftest import run_ablation, start_ablation
from faults import processes
from faults.processes import until

from dcgan import rundir
from experiments import signals

pytestmark = pytest.mark.ray
ENVIRON = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "of-this-test-only",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # listen on the loopback only
    "RAY_USAGE_STATS_ENABLED": "0",
}
EPOCHS = 6
LISTENS = "0A"
LOOPBACK = ["0100007F", "0000000000000000FFFF00000100007F", f"{'0' * 24}01000000"]  # the last: ::1
RAY = ("--engine", "ray", "--epochs", str(EPOCHS), "--jobs", "2")


def begun(out):
    """The runs that have an epoch and not all of them."""
    runs = {epoch.parents[1] for epoch in out.glob("*/*/seed=*/epochs/0001")}
    return [run for run in runs if not rundir.epoch_folder(run, EPOCHS).exists()]


def listening():
    """The addresses and ports on which anybody here listens, as the kernel writes them."""
    tables = (Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6"))
    lines = [line.split() for table in tables for line in table.splitlines()[1:]]
    return {tuple(words[1].split(":")) for words in lines if words[3] == LISTENS}


def processes_of_ray():
    named = re.compile(b"raylet|gcs_server|ray::")
    return {*processes.alive(lambda process: named.search((process / "cmdline").read_bytes()))}


@pytest.fixture
def cluster(monkeypatch):
    """A head without a core to run on, and two nodes of one core each."""
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    memory = {"object_store_memory": 75 << 20}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **memory})
    for _ in range(2):
        made.add_node(num_cpus=1, **memory)
    yield made
    made.shutdown()


def test_a_study_that_loses_a_node_ends_with_the_bytes_of_the_local_engine(cluster, tmp_path):
    out, twin = tmp_path / "ray", tmp_path / "twin"
    options = (*RAY, "--ray-address", cluster.address)

    # A node is lost while both are at work, each on a run that has committed an epoch.
    process = start_ablation(out, *options, WANDB_MODE="disabled")
    until(lambda: len(begun(out)) == 2, "two runs at work")
    cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stdout + stderr
    assert stderr == ""

    # Every epoch was shown once, and is the local engine's.
    assert stdout.count(" images/s ") == 8 * EPOCHS
    assert f"[{8 * EPOCHS}/{8 * EPOCHS} epochs, 0 s left]" in stdout
    done = run_ablation(twin, *RAY[2:], WANDB_MODE="disabled")
    assert done.returncode == 0, done.stdout + done.stderr
    name = "ablation-smoke-shapes"
    got, wanted = (processes.contents(folder / name) for folder in (out, twin))
    assert len(wanted) > 8 * EPOCHS * 2
    assert got.keys() == wanted.keys()
    assert [name for name in wanted if got[name] != wanted[name]] == []


def test_ray_that_is_started_here_listens_on_the_loopback_and_ends_with_the_command(tmp_path):
    known, alive = listening(), processes_of_ray()
    words = ("--engine", "ray", "--epochs", "99", "--jobs", "2")
    process = start_ablation(tmp_path, *words, WANDB_MODE="disabled")
    until(lambda: any(tmp_path.glob("*/*/seed=*/epochs/0001")), "an epoch")
    opened = listening() - known
    assert opened
    assert [address for address in opened if address[0] not in LOOPBACK] == []
    assert processes_of_ray() - alive

    # Committed epochs stay, the words are the local engine's, and nothing of Ray is left.
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stdout + stderr
    assert re.search(r"^device +cpu, 2 runs at a time on Ray, started here$", stdout, re.MULTILINE)
    assert stdout.endswith(signals.STOPPED)
    until(lambda: not processes_of_ray() - alive, "the end of Ray", 30)
