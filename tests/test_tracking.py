"""The mirror against W&B itself, offline: what its own reader finds is what was committed."""

import base64
import fcntl
import hashlib
import io
import json
import os
import pty
import random
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from dcgan import rundir
from dcgan.config import Config
from experiments import grid, tracking

ROOT = Path(__file__).resolve().parents[1]
ARM, SEED = "norm=none,head=conv,batch=128", "seed=3"
EPOCHS = 4
CONFIG = Config(seed=3, epochs=EPOCHS).model_dump()
INFO = {
    "study": "ablation",
    "scale": "smoke",
    "data": {"name": "cifar10", "sha256": "71cf" * 16, "images": 1000},
    "commit": "abc1234",
    "hardware": {"device": "cpu", "processor": "CANARY-processor"},
}
DESCRIPTION = {
    "config": CONFIG,
    "fingerprint": {"torch": "2.15.0", "threads": 1},
    "identities": {"fd_cifar": {"network": "cifar10-resnet", "generated": 2000}},
}
GENERATOR = bytes(range(256))
KEY = "c0ffee" * 7  # long enough for W&B to take it for a key


# --- A run without training, in a process of its own ---------------------------------------------


def make_record(epoch: int) -> dict:
    """A record with numbers that only survive at full precision; FID is measured at the end."""
    numbers = random.Random(epoch)
    curve = [
        {"images": 1000 * (epoch - 1) + 50 * i, "d_loss": numbers.random(), "g_loss": 1 / (i + 2)}
        for i in range(1, 21)
    ]
    curve[7]["g_loss"] = None
    scores = {"fd_cifar": 40 * numbers.random(), "cs_cifar": 4 * numbers.random()}
    scores |= {"kd_cifar": 5e-324, "fid": 0.1 + 0.2 if epoch == EPOCHS else None}
    losses = {"d_loss": numbers.random(), "g_loss": 1e300 / 3, "d_loss_min": 1e-17, "d_fake": None}
    return {
        "epoch": epoch,
        "images": 1000 * epoch,
        "steps": 8 * epoch,
        "status": "ok",
        "losses": losses,
        "curve": curve,
        "scores": scores,
    }


def make_samples(epoch: int) -> bytes:
    image = Image.frombytes("RGB", (256, 128), random.Random(epoch).randbytes(256 * 128 * 3))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def toy_run(study: Path, mode: str, ending: str, patience: float) -> None:
    """Commit and mirror the epochs that are missing; ending says what happens on the way.

    "finish", "live" (each epoch is mirrored before the next one is made), "kill N" (this process,
    once epoch N is mirrored) or "strike SIGNAL" (W&B's service after epoch 2). Prints how the loop
    ended as one line of JSON.
    """
    tracking.PATIENCE = patience
    run = study / ARM / SEED
    rundir.describe(run, DESCRIPTION)
    mirror = tracking.start(study, run, INFO, CONFIG, mode)
    struck = None
    slowest = 0.0
    for epoch in range(len(rundir.committed(run)) + 1, EPOCHS + 1):
        record, timing = make_record(epoch), {"images_per_second": 1000 / epoch}
        files = {rundir.RECORD: rundir.to_json(record), rundir.TIMING: rundir.to_json(timing)}
        files[rundir.GENERATOR] = GENERATOR
        rundir.commit(run, epoch, {**files, rundir.SAMPLES: make_samples(epoch)})

        began = time.monotonic()
        mirror.log(epoch)
        slowest = max(slowest, time.monotonic() - began)

        if ending == "live":
            wait_for_pictures(study, epoch)
        if ending == f"kill {epoch}":
            wait_for_pictures(study, epoch)
            time.sleep(1.2)  # W&B writes its file once a second
            os.kill(os.getpid(), signal.SIGKILL)
        if ending.startswith("strike") and epoch == 2:
            wait_for_pictures(study, epoch)
            struck = service(mirror.process.pid)
            os.kill(struck, getattr(signal, ending.split()[1]))

    began = time.monotonic()
    why = mirror.finish()
    waited = time.monotonic() - began
    if struck and ending == "strike SIGSTOP":
        os.kill(struck, signal.SIGKILL)
    for socket_folder in Path(tempfile.gettempdir()).glob(f"wandb-*-{struck}-*"):
        shutil.rmtree(socket_folder)
    print(json.dumps({"slowest": slowest, "waited": waited, "why": why}))


def wait_until(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "this did not come about in 20 s"
        time.sleep(0.05)


def wait_for_pictures(study: Path, epochs: int) -> None:
    """Wait until W&B has got so many epochs."""
    pictures = "wandb/offline-run-*/files/media/images/*.png"
    wait_until(lambda: len(list(study.glob(pictures))) == epochs)


def service(parent: int) -> int | None:
    """The process id of W&B's service under this process."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, fields = stat.read_text().split("(", 1)[1].rsplit(")", 1)
        except OSError:
            continue
        if name == "wandb-core" and int(fields.split()[1]) == parent:
            return int(stat.parent.name)
    return None


def launch(
    study: Path, mode: str = "offline", ending: str = "finish", patience: float = 30, **environ: str
) -> subprocess.CompletedProcess:
    """Run toy_run in a process of its own, with an empty home beside the study."""
    home = study.parent / "home"
    home.mkdir(exist_ok=True)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "NETRC"))}
    return subprocess.run(
        [sys.executable, __file__, str(study), mode, ending, str(patience), "CANARY-argv"],
        cwd=study.parent,
        env={**inherited, "HOME": str(home), "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


# --- One run, killed three times -----------------------------------------------------------------


@pytest.fixture(scope="module")
def mirrored(
    tmp_path_factory: pytest.TempPathFactory,
    wandb_command: Callable[..., str],
    wandb_history: Callable[[Path, Path], list[dict]],
) -> SimpleNamespace:
    """An offline run that was killed after epochs 1, 2 and 3 and then finished."""
    study = tmp_path_factory.mktemp("tracking") / "ablation-smoke"
    git = study.parent / ".git"
    for folder in ("objects", "refs"):
        (git / folder).mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "config").write_text('[remote "origin"]\n\turl = https://CANARY-remote@example.org/x\n')

    # Short, because W&B's service puts a socket there; a run killed thrice leaves nothing in it.
    temporary = Path(tempfile.mkdtemp(prefix="tmp"))
    environ = {"PASSWORD": "CANARY-environ", "WANDB_API_KEY": KEY, "TMPDIR": str(temporary)}
    fragments, done = [], []
    for ending in ("kill 1", "kill 2", "kill 3", "finish"):
        done.append(launch(study, ending=ending, **environ))
        fragments.append(list(study.glob("wandb/offline-run-*")))
        whole = tracking.whole(study, INFO, CONFIG, EPOCHS)
        assert whole == (ending == "finish"), done[-1].stderr
    wait_until(lambda: not list(temporary.iterdir()))
    temporary.rmdir()

    run_folder = fragments[-1][0]
    return SimpleNamespace(
        study=study,
        fragments=fragments,
        done=done,
        run_folder=run_folder,
        rows=wandb_history(study, run_folder),
        state=json.loads(
            wandb_command(study, "leet", "inspect", "--summary", "--json", str(run_folder))
        ),
    )


def test_a_killed_run_leaves_one_complete_run(mirrored: SimpleNamespace) -> None:
    assert [len(found) for found in mirrored.fragments] == [1, 1, 1, 1]
    assert [done.returncode for done in mirrored.done] == [-signal.SIGKILL] * 3 + [0]
    assert mirrored.state["run_id"] == tracking.run_id(INFO, CONFIG)
    assert mirrored.run_folder.name.endswith(mirrored.state["run_id"])
    assert mirrored.state["state"] == "finished"


def test_the_receipt_is_withdrawn_before_anything_is_sent_again(
    mirrored: SimpleNamespace, tmp_path: Path
) -> None:
    study = tmp_path / mirrored.study.name
    shutil.copytree(mirrored.study, study)
    assert tracking.whole(study, INFO, CONFIG, EPOCHS)
    for epoch in (EPOCHS - 1, EPOCHS):
        shutil.rmtree(rundir.epoch_folder(study / ARM / SEED, epoch))
    done = launch(study, ending=f"kill {EPOCHS - 1}")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not tracking.whole(study, INFO, CONFIG, EPOCHS)


def test_the_history_is_the_records(
    mirrored: SimpleNamespace, expected_history: Callable[[Path], list[dict]]
) -> None:
    assert own_columns(mirrored.rows) == expected_history(mirrored.study / ARM / SEED)
    assert len(mirrored.rows) == EPOCHS * 21
    assert [row["_step"] for row in mirrored.rows] == list(range(len(mirrored.rows)))


def test_the_history_is_the_records_where_epochs_come_one_by_one(
    wandb_history: Callable[[Path, Path], list[dict]],
    expected_history: Callable[[Path], list[dict]],
    tmp_path: Path,
) -> None:
    study = tmp_path / "ablation-smoke"
    done = launch(study, ending="live")
    assert done.returncode == 0, done.stderr
    (run_folder,) = study.glob("wandb/offline-run-*")
    rows = wandb_history(study, run_folder)
    assert own_columns(rows) == expected_history(study / ARM / SEED)
    assert [row["_step"] for row in rows] == list(range(EPOCHS * 21))


def own_columns(rows: list[dict]) -> list[dict]:
    """The rows of a history without what W&B adds, and without pictures."""
    return [
        {name: value for name, value in row.items() if not name.startswith(("_", "samples"))}
        for row in rows
    ]


def test_the_samples_are_the_committed_files(mirrored: SimpleNamespace) -> None:
    rows = [row for row in mirrored.rows if "samples.path" in row]
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
    for row in rows:
        data = (mirrored.run_folder / "files" / row["samples.path"]).read_bytes()
        assert data == make_samples(row["epoch"])
        assert row["samples.sha256"] == hashlib.sha256(data).hexdigest()


def test_the_summary_has_the_best_and_the_last(mirrored: SimpleNamespace) -> None:
    summary = mirrored.state["summary"]
    for name, best in (("fd_cifar", min), ("cs_cifar", max)):
        values = [make_record(epoch)["scores"][name] for epoch in range(1, EPOCHS + 1)]
        assert summary[f"eval/{name}"] == {best.__name__: best(values), "last": values[-1]}
    assert summary["eval/fid"] == {"min": 0.1 + 0.2, "last": 0.1 + 0.2}


def test_the_run_says_what_it_is(
    mirrored: SimpleNamespace, wandb_command: Callable[..., str]
) -> None:
    assert mirrored.state["name"] == f"{ARM} {SEED}"
    assert mirrored.state["project"] == tracking.PROJECT
    assert set(mirrored.state["tags"]) == {"ablation", "smoke", "cifar10", *ARM.split(",")}
    facts = {"study": "ablation", "scale": "smoke", "commit": "abc1234", "device": "cpu"}
    info = {**INFO, "hardware": {"device": "cpu", "processor": tracking.UNNAMED}}
    texts = {"study_json": info, "run_json": DESCRIPTION}
    facts |= {name: json.dumps(value) for name, value in texts.items()}
    assert mirrored.state["config"] == {**CONFIG, **facts, "run": f"{ARM}/{SEED}"}

    entries = inspect(wandb_command, mirrored.study, mirrored.run_folder)
    (run,) = (entry["run"] for entry in entries if entry["type"] == "run")
    assert (run["run_group"], run["job_type"]) == (ARM, "train")
    metrics = [entry["metric"] for entry in entries if entry["type"] == "metric"]
    axes = {m.get("glob_name") or m["name"]: m.get("step_metric") for m in metrics}
    assert axes["train/*"] == "images"
    assert {axes[name] for name in ("losses/*", "eval/*", "samples")} == {"epoch"}


def test_nothing_private_is_stored_and_nothing_is_written_elsewhere(
    mirrored: SimpleNamespace,
) -> None:
    secrets = [b"CANARY", KEY.encode(), f'"{socket.gethostname()}"'.encode()]
    files = [path for path in mirrored.study.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    for path in files:
        assert not any(secret in path.read_bytes() for secret in secrets), path
    assert list((mirrored.study.parent / "home").rglob("*")) == []
    beside = {path.name for path in mirrored.study.parent.iterdir()}
    assert beside == {"home", ".git", mirrored.study.name}


def test_wandb_prints_nothing_of_its_own(mirrored: SimpleNamespace) -> None:
    assert [done.stderr for done in mirrored.done] == [""] * 4
    assert [len(done.stdout.splitlines()) for done in mirrored.done] == [0, 0, 0, 1]


def test_wandb_sync_finds_the_run(
    mirrored: SimpleNamespace, wandb_command: Callable[..., str]
) -> None:
    found = wandb_command(mirrored.study, "sync", "--dry-run", str(mirrored.study / "wandb"))
    assert "Would sync 1 run" in found
    assert mirrored.run_folder.name in found


def test_the_dashboard_shows_the_run(mirrored: SimpleNamespace) -> None:
    code, screen = in_terminal(mirrored.study, f"tracking.dashboard(Path({str(mirrored.study)!r}))")
    assert code == 0
    for text in ("eval/fd_cifar", "Finished", mirrored.state["run_id"]):
        assert text in screen
    assert list((mirrored.study.parent / "home").rglob("*")) == []


def in_terminal(study: Path, call: str) -> tuple[int, str]:
    """Make a call of this project in a pseudo terminal, press q when W&B has drawn something."""
    code = (
        f"import sys; from pathlib import Path; from experiments import tracking; sys.exit({call})"
    )
    process, terminal = pty.fork()
    if process == 0:
        home = {"HOME": str(study.parent / "home"), "TERM": "xterm-256color"}
        environ = {**os.environ, **home, "PYTHONPATH": str(ROOT)}
        os.execve(sys.executable, [sys.executable, "-c", code], environ)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 45, 150, 0, 0))

    screen, end, drawn = b"", time.monotonic() + 20, 0.0
    while time.monotonic() < end:
        if not select.select([terminal], [], [], 0.2)[0]:
            if b"Finished" in screen and not drawn:
                drawn = time.monotonic()
                os.write(terminal, b"q")
            continue
        try:
            screen += os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
    else:
        os.kill(process, signal.SIGKILL)
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), screen.decode(errors="replace")


# --- Artifacts and sweeps -------------------------------------------------------------------------


def artifacts(entries: list[dict]) -> dict[str, dict]:
    return {
        entry["artifact"]["type"]: entry["artifact"]
        for entry in entries
        if entry["type"] == "artifact"
    }


def test_artifacts_are_the_generator_and_a_reference_to_the_data(
    mirrored: SimpleNamespace, wandb_command: Callable[..., str], tmp_path: Path
) -> None:
    study = tmp_path / "study"
    assert launch(study, WANDB_ARTIFACTS="models").returncode == 0
    assert tracking.whole(study, INFO, CONFIG, EPOCHS)
    (run_folder,) = study.glob("wandb/offline-run-*")
    found = artifacts(inspect(wandb_command, study, run_folder))
    assert found.keys() == {"model", "dataset"}

    # The model is the file of the last epoch; W&B's own digest is the base64 of its MD5.
    (entry,) = found["model"]["manifest"]["contents"]
    path = rundir.epoch_folder(study / ARM / SEED, EPOCHS) / rundir.GENERATOR
    assert (entry["local_path"], entry["path"]) == (str(path), rundir.GENERATOR)
    assert entry["digest"] == base64.b64encode(hashlib.md5(GENERATOR).digest()).decode()
    facts = json.loads(found["model"]["metadata"])
    assert facts["sha256"] == hashlib.sha256(GENERATOR).hexdigest()
    assert (facts["run"], facts["epoch"]) == (f"{ARM}/{SEED}", EPOCHS)

    # The data are a name: nothing of them is copied or uploaded.
    (entry,) = found["dataset"]["manifest"]["contents"]
    assert entry["ref"] == entry["digest"] == f"sha256:{INFO['data']['sha256']}"
    assert "local_path" not in entry
    assert json.loads(found["dataset"]["metadata"]) == INFO["data"]

    # Without the word there is none.
    assert artifacts(inspect(wandb_command, mirrored.study, mirrored.run_folder)) == {}


def test_in_a_sweep_the_run_is_the_agents(
    mirrored: SimpleNamespace, wandb_history: Callable[[Path, Path], list[dict]], tmp_path: Path
) -> None:
    study, environ = tmp_path / "study", {"WANDB_SWEEP_ID": "abcd1234", "WANDB_RUN_ID": "ours4321"}
    assert launch(study, ending="kill 2", **environ).returncode == -signal.SIGKILL
    assert launch(study, **environ).returncode == 0
    (run_folder,) = study.glob("wandb/offline-run-*")
    assert run_folder.name.endswith("-ours4321")
    assert not (run_folder / "logs").exists()
    rows, wanted = wandb_history(study, run_folder), mirrored.rows
    assert [row["images"] for row in rows] == [row["images"] for row in wanted]


def inspect(wandb_command: Callable[..., str], study: Path, run_folder: Path) -> list[dict]:
    lines = wandb_command(study, "leet", "inspect", "--json", str(run_folder)).splitlines()
    return [json.loads(line) for line in lines]


# --- W&B fails, the run goes on ------------------------------------------------------------------


def check_went_on(study: Path, done: subprocess.CompletedProcess, reason: str) -> dict:
    """Every epoch is committed, and the end of the run says in one line why its mirror is not."""
    assert done.returncode == 0, done.stderr
    assert rundir.committed(study / ARM / SEED) == list(range(1, EPOCHS + 1))
    assert done.stderr == ""
    assert not tracking.whole(study, INFO, CONFIG, EPOCHS)
    found = json.loads(done.stdout)
    assert found["why"].startswith(f"{ARM} {SEED}: ")
    assert reason in found["why"]
    assert "\n" not in found["why"]
    assert found["slowest"] < 1  # seconds
    return found


def test_the_service_dies(tmp_path: Path) -> None:
    study = tmp_path / "study"
    check_went_on(study, launch(study, ending="strike SIGKILL"), "ConnectionResetError")


def test_the_service_hangs(tmp_path: Path) -> None:
    study = tmp_path / "study"
    done = launch(study, ending="strike SIGSTOP", patience=2)
    assert 1.9 < check_went_on(study, done, "no answer within 2 s")["waited"] < 10


def test_the_server_cannot_be_reached(tmp_path: Path) -> None:
    study = tmp_path / "study"
    with socket.socket() as held:  # bound but not listening: connections are refused
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        done = launch(study, "online", patience=2, WANDB_API_KEY=KEY, WANDB_BASE_URL=url)
    assert check_went_on(study, done, "no answer within 2 s")["waited"] < 12


def test_the_folder_cannot_be_written(tmp_path: Path) -> None:
    study = tmp_path / "study"
    study.mkdir()
    (study / "wandb").write_text("in the way\n")
    check_went_on(study, launch(study), "NotADirectoryError")
    assert (study / "wandb").read_text() == "in the way\n"


def test_online_without_a_credential_does_not_ask(tmp_path: Path) -> None:
    study = tmp_path / "study"
    check_went_on(study, launch(study, "online"), "WANDB_API_KEY")


def test_disabled_writes_nothing(tmp_path: Path) -> None:
    study = tmp_path / "study"
    done = launch(study, "disabled")
    assert (done.returncode, done.stderr) == (0, "")
    assert not (study / "wandb").exists()


def test_there_is_nothing_to_show_or_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("NETRC", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    assert tracking.sync(tmp_path) == 2
    assert "needs WANDB_API_KEY" in capfd.readouterr().err
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert tracking.sync(tmp_path) == 2
    assert tracking.dashboard(tmp_path) == 2
    assert capfd.readouterr().err == f"{tmp_path} has no W&B runs\n" * 2


# --- The mode and the id -------------------------------------------------------------------------


def test_the_mode(tmp_path: Path) -> None:
    def mode(**environ: str) -> str:
        return tracking.choose_mode({"HOME": str(tmp_path), **environ})[0]

    assert mode() == "offline"
    assert mode(WANDB_MODE="") == "offline"
    assert mode(WANDB_API_KEY=KEY) == "online"
    assert mode(WANDB_API_KEY=KEY, WANDB_MODE="offline") == "offline"
    assert mode(WANDB_API_KEY=KEY, WANDB_MODE="online") == "online"
    assert mode(WANDB_MODE="disabled") == "disabled"
    with pytest.raises(ValueError, match="WANDB_MODE=of-line is not one of online, offline"):
        mode(WANDB_MODE="of-line")
    with pytest.raises(ValueError, match="needs WANDB_API_KEY"):
        mode(WANDB_MODE="online")
    assert mode(WANDB_ARTIFACTS="models") == "offline"
    with pytest.raises(ValueError, match="WANDB_ARTIFACTS=all is not models"):
        mode(WANDB_ARTIFACTS="all")


def test_the_mode_by_netrc(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    text = f"machine {{}} login user password {KEY}\n"
    (tmp_path / ".netrc").write_text(text.format("example.org"))
    assert tracking.choose_mode(environ) == ("offline", "no credential")

    (tmp_path / ".netrc").write_text(text.format("api.wandb.ai"))
    assert tracking.choose_mode(environ) == ("online", f"credential in {tmp_path / '.netrc'}")
    own = {**environ, "WANDB_BASE_URL": "https://wandb.example.org:8080"}
    assert tracking.choose_mode(own)[0] == "offline"

    other = tmp_path / "other"
    other.write_text(text.format("wandb.example.org:8080"))
    assert tracking.choose_mode({**own, "NETRC": str(other)})[0] == "online"
    other.write_text("machine\n")
    assert tracking.choose_mode({**own, "NETRC": str(other)})[0] == "offline"


def test_the_id_is_a_function_of_study_scale_and_config() -> None:
    name = tracking.run_id(INFO, CONFIG)
    assert tracking.run_id({**INFO, "commit": "def"}, dict(reversed(CONFIG.items()))) == name
    others = {
        tracking.run_id({**INFO, "study": "other"}, CONFIG),
        tracking.run_id({**INFO, "scale": "small"}, CONFIG),
        tracking.run_id(INFO, {**CONFIG, "seed": 4}),
    }
    assert len(others | {name}) == 4
    assert len(name) == 10


def test_the_id_does_not_change_with_the_length_of_a_run() -> None:
    own = {**CONFIG, "epochs": grid.epochs_of("smoke")}
    text = json.dumps(
        ["ablation", "smoke", {key: own[key] for key in tracking.AT_FIRST}], sort_keys=True
    )
    wanted = hashlib.sha256(text.encode()).hexdigest()[:10]
    assert {tracking.run_id(INFO, {**CONFIG, "epochs": n}) for n in (1, 2, 4, 60)} == {wanted}

    # Of a scale that is gone nobody knows the own length.
    gone = {**INFO, "scale": "gone"}
    assert len({tracking.run_id(gone, {**CONFIG, "epochs": n}) for n in (1, 2)}) == 2


if __name__ == "__main__":
    toy_run(Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]))
