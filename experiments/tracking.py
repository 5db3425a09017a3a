"""The W&B mirror of a run: a projection of its committed epochs, rebuilt whenever that is easier.

    train/d_loss, train/g_loss                    against images   about twenty rows an epoch
    eval/<score>, losses/<loss>, time/*, samples  against epoch    one row an epoch, and its clock
    config                                        that of the run, study.json and run.json

A number that is not finite is NaN there. It is enough to make the report from, see reports.mirrors.
WANDB_ARTIFACTS=models adds each run's last generator as an artifact, and the data as a reference
that carries their SHA-256 and nothing of the images.
All of W&B's files lie in <study>/wandb. W&B is only ever called in a process of its own, which
reads what is committed: no epoch waits for it, neither at the start nor when it hangs or dies.
"""

import fcntl
import hashlib
import json
import math
import netrc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dcgan import rundir
from dcgan.config import Config
from experiments import grid

MODES = ("online", "offline", "disabled")
PROJECT = "dcgan-study"  # unless WANDB_PROJECT is set
PATIENCE = 30.0  # seconds that a finished run waits for its mirror
CLOCK = ("epoch", "images", "steps", "status")  # of an epoch's record, under these very names
UNNAMED = "a processor that W&B is not told"
RECEIPT = "finished"  # the file that says after which epoch a mirror was finished

# The fields of Config when ids were defined.
AT_FIRST = (
    *("norm", "head", "batch", "seed", "data", "data_sha256", "classes", "images"),
    *("model", "resolution", "width", "latent", "latent_size", "stem", "init"),
    *("norm_g", "norm_d", "act_d", "epochs", "lr_g", "lr_d", "beta1", "beta2", "d_steps"),
    *("precision", "score_images", "reference_images", "inception"),
)


@dataclass(frozen=True)
class Mirror:
    """What the training loop holds of one run's mirror. None of its methods raises."""

    run: Path
    process: subprocess.Popen | None  # None when W&B is disabled

    def log(self, epoch: int) -> None:
        """Mirror a committed epoch. Returns at once: W&B's process reads the files itself."""
        self._tell(str(epoch))

    def finish(self) -> str:
        """Wait until W&B has everything, but at most PATIENCE seconds; why it has not, or ""."""
        if self.process is None:
            return ""
        self._tell("finish")
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return f"{self.run.parent.name} {self.run.name}: no answer within {PATIENCE:g} s"
        if code == 0:
            return ""
        return f"{self.run.parent.name} {self.run.name}: {self._last_words() or f'exit {code}'}"

    def _last_words(self) -> str:
        """The last line that the process printed before it ended."""
        if not self.process or not self.process.stderr:
            return ""
        os.set_blocking(self.process.stderr.fileno(), False)  # W&B's service may hold it open
        lines = (self.process.stderr.read() or b"").decode(errors="replace").split("\n")
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")

    def _tell(self, word: str) -> None:
        if self.process and self.process.stdin:
            with suppress(OSError):  # it has ended, and said why
                self.process.stdin.write(f"{word}\n".encode())


def choose_mode(environ: Mapping[str, str]) -> tuple[str, str]:
    """The W&B mode, and why in a few words; raises ValueError with one line."""
    word = environ.get("WANDB_MODE", "")
    place = credential(environ)
    artifacts = environ.get("WANDB_ARTIFACTS", "")
    if artifacts not in ("", "models"):
        raise ValueError(f"WANDB_ARTIFACTS={artifacts} is not models")
    if word and word not in MODES:
        raise ValueError(f"WANDB_MODE={word} is not one of {', '.join(MODES)}")
    if word == "online" and not place:
        raise ValueError("WANDB_MODE=online needs WANDB_API_KEY or a key stored by `wandb login`")

    if word:
        return word, f"WANDB_MODE={word}"
    if place:
        return "online", f"credential in {place}"
    return "offline", "no credential"


def credential(environ: Mapping[str, str]) -> str | None:
    """Where W&B would find a credential: the same places in the same order."""
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        if environ.get(name):
            return name

    home = Path(environ.get("HOME") or Path.home())
    path = next((path for path in (home / ".netrc", home / "_netrc") if path.exists()), None)
    if environ.get("NETRC"):
        path = Path(environ["NETRC"]).expanduser()
    host = urlsplit(environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc
    try:
        entry = path and netrc.netrc(path).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return None
    return str(path) if entry and entry[2] else None


def run_id(info: dict, config: dict) -> str:
    """W&B's id of a run: ten hex digits, a function of the study, the scale and the config.

    `config` is that of run.json. Two rules let a run keep its id for good: whatever its length,
    `epochs` counts as the scale's own (and as they are where the scale is gone); and a field that
    is younger than ids counts only where it has not its default.
    """
    usual = Config().model_dump()
    kept = {x: value for x, value in config.items() if x in AT_FIRST or value != usual.get(x)}
    with suppress(grid.BadStudy):
        kept["epochs"] = grid.epochs_of(info["scale"])
    text = json.dumps([info["study"], info["scale"], kept], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def whole(study: Path, info: dict, config: dict, epoch: int) -> bool:
    """Whether the mirror of this run was finished after this epoch."""
    try:
        return (_desk(study, info, config) / RECEIPT).read_text() == f"{epoch}\n"
    except OSError:
        return False


def start(study: Path, run: Path, info: dict, config: dict, mode: str) -> Mirror:
    """Begin to mirror a run: first its committed epochs, then those given to Mirror.log.

    info is the content of study.json, mode one of MODES. Why W&B failed is what finish() returns.
    """
    if mode == "disabled":
        return Mirror(run, None)
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    environ = {**folders(study.absolute()), "WANDB_SILENT": "true", "WANDB_MODE": mode}
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.tracking"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, **environ, "PYTHONPATH": path},
        bufsize=0,
        start_new_session=True,  # Ctrl-C is for the training process
    )
    mirror = Mirror(run, process)
    mirror._tell(json.dumps([str(study.absolute()), str(run.absolute()), info, config]))
    return mirror


def folders(study: Path) -> dict[str, str]:
    """The environment in which W&B writes inside the study only, and reports no errors home."""
    names = ("DATA", "CACHE", "CONFIG", "ARTIFACT")
    folders = {f"WANDB_{name}_DIR": str(study / "wandb" / name.lower()) for name in names}
    return {**folders, "WANDB_DIR": str(study), "WANDB_ERROR_REPORTING": "false"}


def dashboard(study: Path) -> int:
    """W&B's terminal dashboard on the runs of a study; needs no account. Returns an exit code."""
    return _command(study, "leet")


def sync(study: Path) -> int:
    """Upload the offline runs of a study that W&B's server does not have. Returns an exit code."""
    if not credential(os.environ):
        print("sync needs WANDB_API_KEY or a key stored by `wandb login`", file=sys.stderr)
        return 2
    return _command(study, "sync", "--yes")


def _command(study: Path, *words: str) -> int:
    """Run W&B's own command line on the runs of a study."""
    home = study.absolute() / "wandb"
    if not any(home.glob("*run-*")):
        print(f"{study} has no W&B runs", file=sys.stderr)
        return 2
    command = [sys.executable, "-m", "wandb", *words, str(home)]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # W&B's program ends itself
    try:
        return subprocess.run(command, env={**os.environ, **folders(study.absolute())}).returncode
    except KeyboardInterrupt:
        return 130


def _mirror(study: Path, run: Path, info: dict, config: dict) -> None:
    """Mirror what is committed, then go on at each word on stdin, in this process."""
    # Nothing is asked at a prompt, and nothing is written outside the study's folder.
    choose_mode(os.environ)
    desk = _desk(study, info, config)
    desk.mkdir(parents=True, exist_ok=True)
    if not os.access(study / "wandb", os.W_OK):
        raise PermissionError(f"{study / 'wandb'} is not writable")

    # Wait until the mirror of an earlier, killed process has ended, and withdraw its receipt.
    lock = os.open(desk / "lock", os.O_CREAT | os.O_RDWR)  # until this process ends
    fcntl.flock(lock, fcntl.LOCK_EX)
    (desk / RECEIPT).unlink(missing_ok=True)

    # Drop what that process left: whatever the server does not have is sent again.
    name, temporary = _name(desk), desk / "tmp"
    for fragment in [temporary, *(study / "wandb").glob(f"*run-*-{name}*")]:
        if fragment.exists():
            shutil.rmtree(fragment)
    temporary.mkdir()
    tempfile.tempdir = str(temporary)  # W&B makes temporary folders when it is imported
    os.environ["WANDB_CACHE_DIR"] = str(temporary)  # and its service a log

    # Go on where the server is, which is at the beginning for an offline run.
    wandb_run = _open(study, run, info, config, name)
    _drop_logs(study, desk)
    images = wandb_run.summary.get("images") or 0
    epoch = wandb_run.summary.get("epoch") or 0
    summary: dict[str, dict] = {}
    last = 0
    for word in chain([str(len(rundir.committed(run)))], map(str.strip, sys.stdin)):
        if word == "finish":
            break
        for number in range(last + 1, int(word) + 1):
            record = rundir.read_json(run, number, rundir.RECORD)
            _send(wandb_run, run, record, images, epoch)
            _summarise(summary, record["scores"])
            wandb_run.summary.update(summary)
            last = number
    else:
        shutil.rmtree(temporary, ignore_errors=True)
        os._exit(0)  # the run was stopped: the next process begins anew

    # Close the run, then note that the mirror is whole.
    if last == config["epochs"] and os.environ.get("WANDB_ARTIFACTS"):
        _attach(wandb_run, run, info, last)
    wandb_run.finish()
    _drop_logs(study, desk)
    shutil.rmtree(temporary)
    rundir.replace(desk / RECEIPT, f"{last}\n".encode())


def _open(study: Path, run: Path, info: dict, config: dict, name: str) -> Any:
    import wandb  # takes about a second, and only this process needs it

    arm, seed = run.parent.name, run.name
    tags = [info["study"], info["scale"], info["data"]["name"], *arm.split(",")]
    wandb_run = wandb.init(
        dir=str(study),
        id=name,
        resume="allow" if os.environ["WANDB_MODE"] == "online" else None,
        project=os.environ.get("WANDB_PROJECT") or PROJECT,
        name=f"{arm} {seed}",
        group=arm,
        job_type="train",
        tags=list(dict.fromkeys(tags)),
        config={**config, **_facts(run, info)},
        settings=wandb.Settings(
            allow_val_change=True,
            silent=True,
            console="off",
            symlink=False,
            disable_git=True,
            program="experiments",
            save_code=False,
            label_disable=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_disable_stats=True,
            x_save_requirements=False,
            x_transaction_log_flush_interval=1.0,
            init_timeout=PATIENCE,
            finish_timeout=PATIENCE / 2,
        ),
    )

    # Training is drawn against the images shown, all else against the epoch.
    wandb_run.define_metric("images")
    wandb_run.define_metric("epoch")
    wandb_run.define_metric("train/*", step_metric="images")
    for name in ("losses/*", "time/*", "samples"):
        wandb_run.define_metric(name, step_metric="epoch")
    wandb_run.define_metric("eval/*", step_metric="epoch", summary="none")
    return wandb_run


def _facts(run: Path, info: dict) -> dict:
    """What a run's W&B config says beside its config: names to group by, and three files.

    These are study.json, run.json and, where there is one, calibration.json: texts, for W&B sorts
    keys and writes 0.0 as 0. The processor keeps its name to itself: W&B is told nothing about the
    machine but the device.
    """
    hardware = {**info["hardware"], "processor": UNNAMED}
    path, calibration = run.parents[1] / rundir.CALIBRATION, {}
    if path.exists():
        text = json.dumps(rundir.unseal(path), allow_nan=False)
        calibration = {"calibration_json": text}
    return calibration | {
        "study": info["study"],
        "scale": info["scale"],
        "commit": info["commit"],
        "device": info["hardware"]["device"],
        "run": f"{run.parent.name}/{run.name}",
        "study_json": json.dumps({**info, "hardware": hardware}, allow_nan=False),
        "run_json": json.dumps(rundir.unseal(run / "run.json"), allow_nan=False),
    }


def _name(desk: Path) -> str:
    """W&B's id of the run: ours, but in a sweep the one that the agent was given."""
    in_sweep = os.environ.get("WANDB_SWEEP_ID")
    return (in_sweep and os.environ.get("WANDB_RUN_ID")) or desk.name


def _drop_logs(study: Path, desk: Path) -> None:
    """Unlink W&B's logs, written to or not: they name the folders of this machine."""
    for logs in [desk / "tmp/wandb/logs", *(study / "wandb").glob(f"*run-*-{_name(desk)}*/logs")]:
        shutil.rmtree(logs, ignore_errors=True)


def _send(wandb_run: Any, run: Path, record: dict, images: int, epoch: int) -> None:
    """Log the rows of one committed epoch that lie after the given images and epoch."""
    import wandb

    for point in record["curve"]:
        losses = {f"train/{name}": value for name, value in point.items() if name != "images"}
        if point["images"] > images:
            wandb_run.log(_numbers({"images": point["images"], **losses}))

    timing = rundir.read_json(run, record["epoch"], rundir.TIMING)
    samples = rundir.epoch_folder(run, record["epoch"]) / rundir.SAMPLES
    row = {key: record[key] for key in CLOCK}
    row |= {f"eval/{name}": value for name, value in record["scores"].items()}
    row |= {f"losses/{name}": value for name, value in record["losses"].items()}
    row |= {f"time/{name}": value for name, value in timing.items()}
    if record["epoch"] > epoch:
        wandb_run.log({**_numbers(row), "samples": wandb.Image(str(samples))})


def _attach(wandb_run: Any, run: Path, info: dict, epoch: int) -> None:
    """Add the run's generator as a model, and its data as a reference without the images.

    The model is the committed file in its place, which an offline run names and `wandb sync` reads.
    """
    import wandb

    folder, data = rundir.epoch_folder(run, epoch), info["data"]
    facts = {"run": f"{run.parent.name}/{run.name}", "epoch": epoch}
    digest = hashlib.sha256(rundir.read(run, epoch, rundir.GENERATOR)).hexdigest()
    model = wandb.Artifact(
        f"generator-{wandb_run.id}", type="model", metadata={**facts, "sha256": digest}
    )
    model.add_file(str(folder / rundir.GENERATOR), rundir.GENERATOR, policy="immutable")
    wandb_run.log_artifact(model)

    images = wandb.Artifact(f"data-{data['name']}", type="dataset", metadata=data)
    images.add_reference(f"sha256:{data['sha256']}", name="images", checksum=False)
    wandb_run.log_artifact(images)  # an offline run may not use one


def _summarise(summary: dict[str, dict], scores: dict) -> None:
    """Keep the best and the last of each score. W&B's own forget the best when a run is resumed."""
    from eval.metrics import lower_is_better

    for name, value in scores.items():
        if value is None:
            continue
        word, best = ("min", min) if lower_is_better(name) else ("max", max)
        former = summary.get(f"eval/{name}", {word: value})
        summary[f"eval/{name}"] = {word: best(former[word], value), "last": value}


def _numbers(row: dict) -> dict:
    """A row as W&B takes it: what was not finite is null in a record, and NaN here."""
    return {name: math.nan if value is None else value for name, value in row.items()}


def _desk(study: Path, info: dict, config: dict) -> Path:
    """The folder in which the mirror of one run keeps its lock, its receipt and temporary files."""
    return study / "wandb" / "mirrors" / run_id(info, config)


def _main() -> None:
    study, run, info, config = json.loads(sys.stdin.readline() or "[null, null, null, null]")
    try:
        if study:
            _mirror(Path(study), Path(run), info, config)
    except Exception as error:
        print(" ".join(f"{type(error).__name__}: {error}".split()), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)  # without W&B's exit hook, which would wait for a service that may be gone


if __name__ == "__main__":
    _main()
