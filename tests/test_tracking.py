"""The mirror against W&B itself, offline: what its own reader finds is what was committed."""

import base64
import getpass
import hashlib
import http.server
import io
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from dcgan import rundir
from dcgan.cli import BadInput
from dcgan.config import Config
from experiments import tracking

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

    "finish", "kill N" (this process, once epoch N is mirrored) or "strike SIGNAL" (W&B's service
    after epoch 2). Prints how the loop ended as one line of JSON.
    """
    tracking.PATIENCE = patience
    run = study / ARM / SEED
    rundir.describe(run, DESCRIPTION)
    mirror = tracking.start(study, run, INFO, CONFIG, mode)
    struck = None
    slowest = 0.0
    for epoch in range(len(rundir.committed(run)) + 1, EPOCHS + 1):
        record = make_record(epoch)
        timing = {"images_per_second": 1000 / epoch, "train_seconds": 1.5, "score_seconds": 0.25}
        files = {rundir.RECORD: rundir.to_json(record), rundir.TIMING: rundir.to_json(timing)}
        files[rundir.GENERATOR] = GENERATOR
        rundir.commit(run, epoch, {**files, rundir.SAMPLES: make_samples(epoch)})

        began = time.monotonic()
        mirror.log(epoch)
        slowest = max(slowest, time.monotonic() - began)

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
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "this did not come about in 120 s"
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
        timeout=240,
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
        whole = tracking.is_mirrored(study, INFO, CONFIG, EPOCHS)
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
    assert [done.stderr for done in mirrored.done] == [""] * 4
    assert mirrored.state["run_id"] == tracking.run_id(INFO, CONFIG)
    assert mirrored.run_folder.name.endswith(f"{mirrored.state['run_id']}-{ARM},{SEED}")
    assert mirrored.state["state"] == "finished"


def test_the_history_is_the_records(
    mirrored: SimpleNamespace, expected_history: Callable[[Path], list[dict]]
) -> None:
    own = [
        {name: value for name, value in row.items() if not name.startswith(("_", "samples"))}
        for row in mirrored.rows
    ]
    assert own == expected_history(mirrored.study / ARM / SEED)
    assert [row["_step"] for row in mirrored.rows] == list(range(EPOCHS * 21))


def test_an_epoch_has_its_samples_and_the_time_since_the_run_began(
    mirrored: SimpleNamespace,
) -> None:
    rows = [row for row in mirrored.rows if "samples.path" in row]
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
    assert [row["time/elapsed_seconds"] for row in rows] == [1.75, 3.5, 5.25, 7.0]
    for row in rows:
        data = (mirrored.run_folder / "files" / row["samples.path"]).read_bytes()
        assert data == make_samples(row["epoch"])
        assert (
            row["samples.caption"] == f"epoch {row['epoch']}, fd_cifar {row['eval/fd_cifar']:.1f}"
        )
        assert row["samples.sha256"] == hashlib.sha256(data).hexdigest()


def test_the_summary_has_the_best_and_the_last(mirrored: SimpleNamespace) -> None:
    summary = mirrored.state["summary"]
    for name, best in (("fd_cifar", min), ("cs_cifar", max)):
        values = [make_record(epoch)["scores"][name] for epoch in range(1, EPOCHS + 1)]
        where = {best.__name__: best(values), "best_epoch": values.index(best(values)) + 1}
        assert summary[f"eval/{name}"] == {**where, "last": values[-1]}
    assert summary["eval/fid"] == {"min": 0.1 + 0.2, "best_epoch": EPOCHS, "last": 0.1 + 0.2}


def test_the_run_says_what_it_is(
    mirrored: SimpleNamespace, wandb_command: Callable[..., str]
) -> None:
    assert mirrored.state["name"] == f"{ARM} {SEED}"
    assert mirrored.state["project"] == tracking.PROJECT
    assert set(mirrored.state["tags"]) == {"ablation", "smoke", "cifar10", *ARM.split(",")}
    facts = {"study": "ablation", "scale": "smoke", "commit": "abc1234", "device": "cpu"}
    assert mirrored.state["config"] == {**CONFIG, **facts, "run": f"{ARM}/{SEED}"}
    info = {**INFO, "hardware": {"device": "cpu", "processor": tracking.UNNAMED}}
    for name, value in {"study.json": info, "run.json": DESCRIPTION}.items():
        assert json.loads((mirrored.run_folder / "files" / name).read_bytes()) == value

    entries = inspect(wandb_command, mirrored.study, mirrored.run_folder)
    (run,) = (entry["run"] for entry in entries if entry["type"] == "run")
    assert (run["run_group"], run["job_type"]) == (ARM, "train")
    assert run["git"] == {"commit": "abc1234"}
    metrics = [entry["metric"] for entry in entries if entry["type"] == "metric"]
    axes = {m.get("glob_name") or m["name"]: m.get("step_metric") for m in metrics}
    assert axes["train/*"] == "images"
    assert {axes[name] for name in ("losses/*", "eval/*", "samples")} == {"epoch"}
    hidden = {m["name"] for m in metrics if m["options"].get("hidden")}
    assert hidden == {"epoch", "images", "steps"}


def test_nothing_private_is_stored_and_nothing_is_written_elsewhere(
    mirrored: SimpleNamespace, wandb_command: Callable[..., str]
) -> None:
    entries = inspect(wandb_command, mirrored.study, mirrored.run_folder)
    stored = {text for entry in entries for text in texts(entry)}
    assert {tracking.PROJECT, "abc1234"} < stored
    assert not {socket.gethostname(), getpass.getuser()} & stored
    assert not [text for text in stored if str(mirrored.study.parent) in text or str(ROOT) in text]
    for path in filter(Path.is_file, mirrored.study.rglob("*")):
        assert not any(secret in path.read_bytes() for secret in (b"CANARY", KEY.encode())), path
    assert list((mirrored.study.parent / "home").rglob("*")) == []
    beside = {path.name for path in mirrored.study.parent.iterdir()}
    assert beside == {"home", ".git", mirrored.study.name}


def texts(value: object) -> Iterator[str]:
    """Every text in a record, keys apart."""
    if isinstance(value, str):
        yield value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    for part in parts:
        yield from texts(part)


def test_wandb_sync_finds_the_run(
    mirrored: SimpleNamespace, wandb_command: Callable[..., str]
) -> None:
    found = wandb_command(mirrored.study, "sync", "--dry-run", str(mirrored.study / "wandb"))
    assert "Would sync 1 run" in found
    assert mirrored.run_folder.name in found


# --- Artifacts and sweeps -------------------------------------------------------------------------


def test_artifacts_are_the_generator_and_a_reference_to_the_data(
    mirrored: SimpleNamespace, wandb_command: Callable[..., str], tmp_path: Path
) -> None:
    study = tmp_path / "study"
    assert launch(study, WANDB_ARTIFACTS="models").returncode == 0
    (run_folder,) = study.glob("wandb/offline-run-*")
    entries = inspect(wandb_command, study, run_folder)
    sent = [entry["artifact"] for entry in entries if entry["type"] == "artifact"]
    model, data = (next(x for x in sent if x["type"] == kind) for kind in ("model", "dataset"))

    # The model is the file of the last epoch; W&B's own digest is the base64 of its MD5.
    (entry,) = model["manifest"]["contents"]
    path = rundir.epoch_folder(study / ARM / SEED, EPOCHS) / rundir.GENERATOR
    assert (entry["local_path"], entry["path"]) == (str(path), rundir.GENERATOR)
    assert entry["digest"] == base64.b64encode(hashlib.md5(GENERATOR).digest()).decode()
    digest = hashlib.sha256(GENERATOR).hexdigest()
    facts = {"run": f"{ARM}/{SEED}", "epoch": EPOCHS, "sha256": digest}
    assert json.loads(model["metadata"]) == facts

    # The data are a name: nothing of them is copied or uploaded.
    (entry,) = data["manifest"]["contents"]
    assert entry["ref"] == entry["digest"] == f"sha256:{INFO['data']['sha256']}"
    assert "local_path" not in entry

    # Without the word there is none.
    entries = inspect(wandb_command, mirrored.study, mirrored.run_folder)
    assert not [entry for entry in entries if entry["type"] == "artifact"]


def test_in_a_sweep_the_run_is_the_agents(
    mirrored: SimpleNamespace, wandb_history: Callable[[Path, Path], list[dict]], tmp_path: Path
) -> None:
    study, environ = tmp_path / "study", {"WANDB_SWEEP_ID": "abcd1234", "WANDB_RUN_ID": "ours4321"}
    assert launch(study, **environ).returncode == 0
    (run_folder,) = study.glob("wandb/offline-run-*")
    assert "-ours4321-" in run_folder.name
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
    assert not tracking.is_mirrored(study, INFO, CONFIG, EPOCHS)
    found = json.loads(done.stdout)
    assert found["why"].startswith(f"{ARM} {SEED}: ")
    assert reason in found["why"]
    assert "\n" not in found["why"]
    assert found["slowest"] < 1  # seconds
    return found


@pytest.mark.parametrize(
    ("number", "patience", "reason"),
    [("SIGKILL", 60, "ConnectionResetError"), ("SIGSTOP", 2, "no answer within 2 s")],
)
def test_the_service_dies_or_hangs(
    tmp_path: Path, number: str, patience: float, reason: str
) -> None:
    study = tmp_path / "study"
    done = launch(study, ending=f"strike {number}", patience=patience)
    assert check_went_on(study, done, reason)["waited"] < patience + 30


def test_what_the_environment_says_wins(
    wandb_command: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "study"
    said = {"WANDB_NAME": "mine", "WANDB_TAGS": "a,b", "WANDB_NOTES": "of mine"}
    said |= {"WANDB_RUN_GROUP": "all", "WANDB_HOST": "here", "WANDB_RUN_ID": "x"}
    assert launch(study, **said).returncode == 0
    (run_folder,) = study.glob("wandb/offline-run-*")
    entries = inspect(wandb_command, study, run_folder)
    (run,) = (entry["run"] for entry in entries if entry["type"] == "run")
    assert (run["display_name"], run["tags"], run["notes"]) == ("mine", ["a", "b"], "of mine")
    assert (run["run_group"], run["host"]) == ("all", "here")
    assert run["run_id"] == tracking.run_id(INFO, CONFIG)

    # The id is ours, which the plan says.
    monkeypatch.setenv("WANDB_RUN_ID", "x")
    to = tracking.Destination("online", "", "https://example.org/e/p", {})
    first, second = tracking.describe(to, study).splitlines()
    assert first == "online, https://example.org/e/p"
    assert second.strip() == "WANDB_RUN_ID is ignored: the id of a run follows from its config"


def test_the_report_is_one_run(tmp_path: Path) -> None:
    study, page = tmp_path / "study", b"<html>the page</html>"
    files = {"index.html": page, "figures/fd_cifar.png": make_samples(1)}
    files["records.csv"] = (
        f'run,epoch,fd\n"{ARM}/seed=0",1,2.5\n"{ARM}/seed=1",1,\nb/seed=0,1,3\n'.encode()
    )
    for name, data in files.items():
        rundir.replace(study / "report" / name, data)
    rundir.replace(study / "study.json", rundir.seal(INFO))
    assert tracking.start_report(study, "offline").finish() == ""
    (run_folder,) = study.glob("wandb/offline-run-*-report")
    assert tracking.start_report(study, "offline").process is None  # W&B has this very report
    tables = run_folder.glob("files/media/table/records/*")
    assert {path.name.split("_")[0] for path in tables} == {ARM, "b"}
    (figure,) = run_folder.glob("files/media/images/figures/*.png")
    assert figure.read_bytes() == files["figures/fd_cifar.png"]
    (sent,) = run_folder.glob("files/media/html/*.html")
    assert sent.read_bytes() == page


# --- Where runs go, and their ids ----------------------------------------------------------------


class Server(http.server.BaseHTTPRequestHandler):
    """An imitation of W&B's: it knows one key, and says who that is."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        known = base64.b64encode(f"api:{KEY}".encode()).decode() in self.headers["Authorization"]
        viewer = {"id": "x", "username": "ann", "entity": "people", "flags": "{}"}
        viewer |= {"teams": {"edges": []}, "apiKeys": {"edges": []}}
        fault = {"errors": [{"message": "user is not logged in"}]}
        body = json.dumps({"data": {"viewer": viewer}} if known else fault).encode()
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A HOME and a working folder in which nobody is logged in."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "NETRC"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def say(*words: str) -> None:
    """Run W&B's own command line, as a user does."""
    command = [Path(sys.executable).with_name("wandb"), *words]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def destination() -> tracking.Destination:
    return tracking.destination(tracking.ask())


@pytest.mark.parametrize("word", ["offline", "disabled"])
def test_the_mode_is_the_one_that_wandb_was_told(home: Path, word: str) -> None:
    say("login", "--no-verify", KEY)
    say(word)
    to = destination()
    assert (to.mode, to.why, to.environ["WANDB_MODE"]) == (word, "", word)


def test_the_host_and_the_key_are_those_of_the_login(home: Path, server: str) -> None:
    say("login", f"--host={server}", "--no-verify", KEY)
    before = sorted(home.rglob("*"))
    to = destination()
    assert (to.mode, to.why) == ("online", "")
    assert to.url.endswith(f"/people/{tracking.PROJECT}")
    assert to.environ["WANDB_BASE_URL"] == server
    assert to.environ["WANDB_ENTITY"] == "people"
    assert sorted(home.rglob("*")) == before

    # A key that the server does not know.
    say("login", "--relogin", f"--host={server}", "--no-verify", KEY[::-1])
    to = destination()
    assert (to.mode, to.url, to.environ["WANDB_MODE"]) == ("offline", "", "offline")
    assert "user is not logged in" in to.why
    assert tracking.describe(to, Path("a b")).endswith("python -m experiments sync 'a b'")


def test_a_dead_host_is_offline_within_ten_seconds(home: Path) -> None:
    with socket.socket() as bound:  # but not listening: connections are refused
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        say("login", f"--host={url}", "--no-verify", KEY)
        asked = tracking.ask()
        select.select([asked.stdout], [], [])  # W&B is imported, and has read its settings
        began = time.monotonic()
        to = tracking.destination(asked)
    assert time.monotonic() - began < 12
    assert (to.mode, to.why.partition(": ")[0]) == ("offline", url)


def test_the_environment_is_read_as_wandb_reads_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = destination()
    assert (to.mode, "No API key configured" in to.why) == ("offline", True)
    for word, mode in {"dryrun": "offline", "disabled": "disabled"}.items():
        monkeypatch.setenv("WANDB_MODE", word)
        assert (destination().mode, destination().why) == (mode, "")
    for name, value in {"WANDB_ARTIFACTS": "all", "WANDB_MODE": "of-line"}.items():
        monkeypatch.setenv(name, value)
        with pytest.raises(BadInput, match=f"{name}={value}"):
            destination()
        monkeypatch.delenv(name)


def test_the_id_is_a_function_of_study_scale_and_config() -> None:
    name = tracking.run_id(INFO, CONFIG)
    assert tracking.run_id({**INFO, "commit": "def"}, dict(reversed(CONFIG.items()))) == name
    others = {
        tracking.run_id({**INFO, "study": "other"}, CONFIG),
        tracking.run_id({**INFO, "scale": "small"}, CONFIG),
        tracking.run_id(INFO, {**CONFIG, "seed": 4}),
    }
    assert len(others | {name}) == 4
    assert {tracking.run_id(INFO, {**CONFIG, "epochs": n}) for n in (1, 2, 60)} == {name}


if __name__ == "__main__":
    toy_run(Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]))
