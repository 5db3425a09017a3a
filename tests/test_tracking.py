"""The mirror against W&B itself, offline: what its own reader finds is what was committed."""

import base64
import getpass
import http.server
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT, capture, clean_environ, rows_of_records, run_wandb
from faults.processes import until

from dcgan import rundir
from dcgan.cli import BadInput
from dcgan.config import Config
from experiments import tracking

ARM, SEED = "norm=none,head=conv,batch=128", "seed=0"
PICTURES = "wandb/offline-run-*/files/media/images/*.png"
EPOCHS = 4
KEY = "c0ffee" * 7  # long enough for W&B to take it for a key
BY_ENVIRONMENT = {"WANDB_HOST": "here", "WANDB_NAME": "mine", "WANDB_NOTES": "of mine"}
BY_ENVIRONMENT |= {"WANDB_RUN_GROUP": "all", "WANDB_TAGS": "a,b"}


def toy_run(made: Path, study: Path, killed_at: int) -> None:
    """Commit the epochs of a made-up run again, one by one, and mirror them offline.

    This process is killed once that epoch is mirrored; 0: it is not.
    """
    tracking.PATIENCE = 120.0  # for a machine that is busy
    run = study / ARM / SEED
    for name in ("study.json", f"{ARM}/{SEED}/run.json"):
        rundir.replace(study / name, (made / name).read_bytes())
    mirror = tracking.start(run, "offline")
    for epoch in range(len(rundir.committed(run)) + 1, EPOCHS + 1):
        folder = rundir.epoch_folder(made / ARM / SEED, epoch)
        files = {name: rundir.read(folder, name) for name in rundir.read_sums(folder)}
        rundir.commit(run, epoch, {**files, rundir.GENERATOR: b"weights"})
        mirror.log(epoch)
        if epoch == killed_at:
            until(lambda: len(list(study.glob(PICTURES))) == killed_at, "its pictures")
            time.sleep(1.2)  # W&B writes its file once a second
            os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(mirror.finish() or 0)


@pytest.fixture(scope="module")
def made(make_study, tmp_path_factory):
    """A made-up study of one run, whose last epoch diverged. Read only."""
    factors = {"norm": ["none"], "head": ["conv"], "batch": [128]}
    parent, last = tmp_path_factory.mktemp("made"), {f"{ARM}/{SEED}": EPOCHS}
    return make_study(parent, factors=factors, epochs=EPOCHS, resolution=16, diverged=last)


@pytest.fixture(scope="module")
def launch(made):
    """The function that makes a toy_run in a process of its own, with an empty home beside it."""

    def run(study, killed_at=0, **environ):
        home = study.parent / "home"
        home.mkdir(exist_ok=True)
        environ = clean_environ() | {"HOME": str(home), "PYTHONPATH": str(ROOT)} | environ
        words = [__file__, str(made), str(study), str(killed_at)]
        return capture([sys.executable, *words], cwd=study.parent, env=environ)

    return run


def inspect(study):
    """Everything in the one run of a study, and what is there of some kinds."""
    (folder,) = study.glob("wandb/offline-run-*")
    lines = run_wandb(study, "leet", "inspect", "--json", str(folder)).splitlines()
    result = {"entries": [json.loads(line) for line in lines]}
    for kind in ("run", "metric", "artifact", "history"):
        result[kind] = [entry[kind] for entry in result["entries"] if entry["type"] == kind]
    return result


def texts(value):
    """Every text in a record, keys apart."""
    if isinstance(value, str):
        return {value}
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return set().union(*map(texts, parts))


@pytest.fixture(scope="module")
def mirrored(launch, tmp_path_factory):
    """An offline run that was killed after epoch 2 and then finished."""
    study = tmp_path_factory.mktemp("tracking") / "ablation-smoke"

    # Short, because W&B's service puts a socket there; a killed run leaves nothing in it.
    temporary = Path(tempfile.mkdtemp(prefix="tmp"))
    environ = {"WANDB_API_KEY": KEY, "TMPDIR": str(temporary)}
    for killed_at, code in {2: -signal.SIGKILL, 0: 0}.items():
        done = launch(study, killed_at, **environ)
        assert (done.returncode, done.stderr) == (code, "")
        (run_folder,) = study.glob("wandb/offline-run-*")
        assert tracking.is_mirrored(study / ARM / SEED, EPOCHS) == (not killed_at)
    until(lambda: not list(temporary.iterdir()), "an empty folder of temporary files")
    temporary.rmdir()
    state = run_wandb(study, "leet", "inspect", "--summary", "--json", str(run_folder))
    about = {"study": study, "run_folder": run_folder, "state": json.loads(state)}
    return SimpleNamespace(**about, **inspect(study))


def test_the_history_is_the_records_though_the_run_was_killed(mirrored):
    rows = [row["item"] for row in mirrored.history]
    own = [{k: v for k, v in row.items() if not k.startswith(("_", "samples"))} for row in rows]
    assert own == rows_of_records(mirrored.study / ARM / SEED)
    assert [row["_step"] for row in rows] == list(range(EPOCHS * 21))
    assert "NaN" in own[-1].values()


def test_every_epoch_has_its_samples_with_the_score(mirrored):
    rows = [row["item"] for row in mirrored.history if "samples.path" in row["item"]]
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
    for epoch, row in enumerate(rows, 1):
        data = (mirrored.run_folder / "files" / row["samples.path"]).read_bytes()
        folder = rundir.epoch_folder(mirrored.study / ARM / SEED, epoch)
        assert data == rundir.read(folder, rundir.SAMPLES)
        score = row["eval/fd_cifar"]
        shown = "no score" if score == "NaN" else f"fd_cifar {score:.1f}"
        assert row["samples.caption"] == f"epoch {epoch}, {shown}"


def test_the_summary_has_the_best_and_the_last(mirrored):
    run = mirrored.study / ARM / SEED
    measured = [rundir.read_json(run, epoch, rundir.RECORD)["scores"] for epoch in (1, 2, 3)]
    for name, best in (("fd_cifar", min), ("cs_cifar", max)):
        values = [scores[name] for scores in measured]
        where = {best.__name__: best(values), "best_epoch": values.index(best(values)) + 1}
        assert mirrored.state["summary"][f"eval/{name}"] == {**where, "last": values[-1]}


def test_the_run_says_what_it_is(mirrored, made):
    info, stored = rundir.unseal(made / "study.json"), rundir.unseal(made / ARM / SEED / "run.json")
    state, (run,) = mirrored.state, mirrored.run
    assert state["run_id"] == tracking.run_id(info, stored["config"])
    assert mirrored.run_folder.name.endswith(f"{state['run_id']}-{ARM},{SEED}")
    assert (state["state"], state["name"]) == ("finished", f"{ARM} {SEED}")
    assert state["project"] == tracking.PROJECT
    assert set(state["tags"]) == {"ablation", "small", "shapes", *ARM.split(",")}
    facts = {"study": "ablation", "scale": "small", "commit": "abc1234", "device": "cpu"}
    assert state["config"] == stored["config"] | facts | {"run": f"{ARM}/{SEED}"}
    assert (run["run_group"], run["job_type"]) == (ARM, "train")
    assert run["git"] == {"commit": "abc1234"}
    info["hardware"]["processor"] = tracking.UNNAMED
    for name, value in {"study.json": info, "run.json": stored}.items():
        assert json.loads((mirrored.run_folder / "files" / name).read_bytes()) == value

    # Charts are drawn against images or epochs, which have none themselves.
    axes = {m.get("glob_name") or m["name"]: m.get("step_metric") for m in mirrored.metric}
    assert axes["train/*"] == "images"
    assert {axes[name] for name in ("losses/*", "eval/*", "samples")} == {"epoch"}
    hidden = {m["name"] for m in mirrored.metric if m["options"].get("hidden")}
    assert hidden == {"epoch", "images", "steps"}


def test_no_machine_is_named_and_nothing_is_written_elsewhere(mirrored):
    """Folders and keys are in the row of secrets."""
    stored = texts(mirrored.entries)
    assert {tracking.PROJECT, "abc1234"} < stored
    assert not {socket.gethostname(), getpass.getuser()} & stored
    for path in filter(Path.is_file, mirrored.study.glob("wandb/**/*")):
        assert b"Example CPU" not in path.read_bytes(), path
    assert list((mirrored.study.parent / "home").rglob("*")) == []
    beside = {path.name for path in mirrored.study.parent.iterdir()}
    assert beside == {"home", mirrored.study.name}


def test_wandb_sync_sees_the_run_and_no_artifact(mirrored):
    shown = run_wandb(mirrored.study, "sync", "--dry-run", str(mirrored.study / "wandb"))
    assert "Would sync 1 run" in shown
    assert mirrored.run_folder.name in shown
    assert mirrored.artifact == []


def test_names_come_from_the_environment(launch, mirrored, tmp_path):
    study = tmp_path / "study"
    assert launch(study, **BY_ENVIRONMENT).returncode == 0
    entries = inspect(study)
    (run,) = entries["run"]
    assert (run["display_name"], run["tags"], run["notes"]) == ("mine", ["a", "b"], "of mine")
    assert (run["run_group"], run["host"]) == ("all", "here")
    assert not list(study.glob("wandb/*run-*/logs"))
    assert len(entries["history"]) == len(mirrored.history)


class Server(http.server.BaseHTTPRequestHandler):
    """An imitation of W&B's: it knows one key, and says who that is."""

    def do_POST(self):
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

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A HOME and a working folder in which nobody is logged in."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "NETRC"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def say(*words):
    """Run W&B's own command line, as a user does."""
    assert capture([Path(sys.executable).with_name("wandb"), *words]).returncode == 0


def test_the_mode_is_the_one_that_wandb_was_told(home, monkeypatch):
    to = tracking.destination()
    assert (to.mode, "No API key configured" in to.why) == ("offline", True)
    say("login", "--no-verify", KEY)
    for word in ("offline", "disabled"):
        say(word)
        to = tracking.destination()
        assert (to.mode, to.why, to.environ["WANDB_MODE"]) == (word, "", word)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert tracking.destination().mode == "offline"


def test_the_host_and_the_key_are_those_of_the_login(home, server):
    say("login", f"--host={server}", "--no-verify", KEY)
    before = sorted(home.rglob("*"))
    to = tracking.destination()
    assert (to.mode, to.why) == ("online", "")
    assert to.url.endswith(f"/people/{tracking.PROJECT}")
    assert to.environ["WANDB_BASE_URL"] == server
    assert to.environ["WANDB_ENTITY"] == "people"
    assert sorted(home.rglob("*")) == before

    # A key that the server does not know.
    say("login", "--relogin", f"--host={server}", "--no-verify", KEY[::-1])
    to = tracking.destination()
    assert (to.mode, to.url, to.environ["WANDB_MODE"]) == ("offline", "", "offline")
    assert "user is not logged in" in to.why
    assert tracking.describe(to) == f"offline ({to.why})"


def test_a_host_that_is_silent_for_ten_seconds_is_offline(home, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # which answers no request
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        began = time.monotonic()
        to = tracking.destination()
    assert time.monotonic() - began < 10 + 20  # with W&B's import
    assert (to.mode, to.why.partition(": ")[0]) == ("offline", url)


def test_an_upload_without_a_key_is_refused_and_no_key_is_asked_for(home):
    (home / "wandb" / "offline-run-1").mkdir(parents=True)
    with pytest.raises(BadInput, match=r"^sync: .*No API key configured"):
        tracking.become_wandb(home, "sync", "--yes")


def test_the_id_is_a_function_of_study_scale_and_config():
    info, config = {"study": "ablation", "scale": "smoke", "commit": "abc"}, Config().model_dump()
    name = tracking.run_id(info, config)
    assert tracking.run_id({**info, "commit": "def"}, dict(reversed(config.items()))) == name
    others = [(info | {"study": "other"}, config), (info | {"scale": "small"}, config)]
    others.append((info, config | {"seed": 4}))
    assert len({name, *(tracking.run_id(*other) for other in others)}) == 4
    assert {tracking.run_id(info, {**config, "epochs": n}) for n in (1, 2, 60)} == {name}


if __name__ == "__main__":
    toy_run(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
