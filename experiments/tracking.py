"""The W&B mirror of a study: a projection of its committed epochs, which can always be made again.

    train/d_loss, train/g_loss                    against images   about twenty rows an epoch
    eval/<score>, losses/<loss>, time/*, samples  against epoch    one row an epoch
    config, study.json, run.json                  that of the run, and its files

All of W&B's files lie in <study>/wandb. W&B is only called in processes of its own, which read
what is committed: no epoch waits for it, neither at the start nor when it hangs or dies.
"""

import fcntl
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from dcgan import rundir
from dcgan.cli import BadInput, one_line
from dcgan.config import Config, fault
from experiments import grid

PROJECT = "dcgan-study"  # unless W&B's settings name one
PATIENCE = 30.0  # seconds that a finished run waits for its mirror
ANSWER_SECONDS = 10.0  # for W&B's server to answer
FILES = ("study.json", "run.json", rundir.CALIBRATION)  # of a run, as W&B has them
UNNAMED = "a processor that W&B is not told"
MIRRORS = "wandb/mirrors"  # of a study: a folder for each mirror's lock, receipt, temporary files
RECEIPT = "finished"  # the file that says after which epoch a mirror was finished

# What W&B is not told about the machine unless the environment says otherwise, and what it may not.
PRIVATE = {"DISABLE_GIT": "true", "HOST": "", "LABEL_DISABLE": "true", "X_DISABLE_META": "true"}
PRIVATE |= {"X_DISABLE_STATS": "true", "X_SAVE_REQUIREMENTS": "false"}
ALWAYS = {"PROGRAM": "experiments", "SILENT": "true", "SYMLINK": "false"}
ALWAYS |= {"CONSOLE": "off", "SAVE_CODE": "false", "X_TRANSACTION_LOG_FLUSH_INTERVAL": "1"}

# The fields of Config when ids were defined.
AT_FIRST = (
    *("norm", "head", "batch", "seed", "data", "data_sha256", "classes", "images"),
    *("model", "resolution", "width", "latent", "latent_size", "stem", "init"),
    *("norm_g", "norm_d", "act_d", "epochs", "lr_g", "lr_d", "beta1", "beta2", "d_steps"),
    *("precision", "score_images", "reference_images", "inception"),
)


@dataclass(frozen=True)
class Destination:
    """Where the runs of a study go."""

    mode: str  # online, offline or disabled
    why: str  # it is not online, in W&B's words; "" where W&B's settings say so
    url: str  # of the project; "" where it is not online
    environ: dict[str, str]  # which makes any process of W&B go there


@dataclass(frozen=True)
class Mirror:
    """What the training loop has of one run's mirror. None of its methods raises."""

    process: subprocess.Popen | None  # None where there is nothing to mirror

    def log(self, line: int | str) -> None:
        """Have an epoch mirrored, by `_follow` in a process of its own; returns at once."""
        if self.process:
            with suppress(OSError):  # it has ended, and said why
                self.process.stdin.write(f"{line}\n".encode())

    def finish(self) -> str:
        """Wait until W&B has everything, but at most PATIENCE seconds; why it has not, or ""."""
        if not (process := self.process):
            return ""
        self.log("finish")
        try:
            code = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.terminate()  # it leaves nothing that names folders of this machine
            return f"no answer within {PATIENCE:g} s"
        os.set_blocking(process.stderr.fileno(), False)  # W&B's service may have it open
        said = _last_line(process.stderr.read() or b"")
        return (said or f"exit {code}") if code else ""


def destination(**environ: str) -> Destination:
    """Where runs go, asked of W&B's settings, and of its server where online; raises BadInput."""
    environ = {**os.environ, "WANDB_ERROR_REPORTING": "false", **environ}
    if environ.get("WANDB_MODE") == "disabled":  # which needs no answer
        return Destination("disabled", "", "", {"WANDB_MODE": "disabled"})
    answer, err = _spawn("ask", environ, subprocess.PIPE).communicate()
    if not answer:
        raise BadInput(_last_line(err))
    return Destination(**json.loads(answer))


def describe(to: Destination) -> str:
    """Where the runs of a study go, for its plan."""
    return to.mode + (f", {to.url}" if to.url else "") + (f" ({to.why})" if to.why else "")


def environment(study: Path) -> dict[str, str]:
    """The environment in which W&B writes inside the study only, and reports no errors home."""
    folder, kinds = study.absolute(), ("DATA", "CACHE", "ARTIFACT")
    folders = {f"WANDB_{kind}_DIR": str(folder / "wandb" / kind.lower()) for kind in kinds}
    return {**folders, "WANDB_DIR": str(folder), "WANDB_ERROR_REPORTING": "false"}


def become_wandb(study: Path, *arguments: str) -> NoReturn:
    """Go on as W&B's own command line on the runs of a study, `leet` or `sync`; or BadInput."""
    home = study.absolute() / "wandb"
    if not any(home.glob("*run-*")):
        raise BadInput(f"{study} has no W&B runs")
    environ = os.environ | environment(study)
    if arguments[0] == "sync":  # for a key W&B would ask at a prompt, for a server wait forever
        to = destination(WANDB_MODE="online")
        if not to.url:
            raise BadInput(f"sync: {to.why}")
        environ |= to.environ
    command = [sys.executable, "-m", "wandb", *arguments, str(home)]
    os.execve(sys.executable, command, environ)


def run_id(info: dict, config: dict) -> str:
    """W&B's id of a run, ten hex digits, from study.json and the config in run.json.

    Two rules let a run keep it for good. Whatever its length, `epochs` counts as the scale's own,
    as long as there is that scale. A field that is younger than ids counts only where it has not
    its default.
    """
    usual = Config().model_dump()
    kept = {x: value for x, value in config.items() if x in AT_FIRST or value != usual.get(x)}
    with suppress(grid.BadStudy):
        kept["epochs"] = grid.epochs_of(info["scale"])
    text = json.dumps([info["study"], info["scale"], kept], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def is_mirrored(run: Path, epoch: int) -> bool:
    """Whether the mirror of this run was finished after this epoch."""
    info, stored = rundir.unseal(run.parents[1] / "study.json"), rundir.unseal(run / "run.json")
    path = run.parents[1] / MIRRORS / run_id(info, stored["config"]) / RECEIPT
    return path.is_file() and path.read_text().strip() == str(epoch)


def start(run: Path, mode: str) -> Mirror:
    """Begin to mirror a run: first its committed epochs, then those given to Mirror.log."""
    if mode == "disabled":
        return Mirror(None)
    environ = os.environ | environment(run.parents[1]) | {"WANDB_MODE": mode}
    return Mirror(_spawn(str(run.absolute()), environ, subprocess.DEVNULL))


def _spawn(what: str, environ: dict[str, str], stdout: int) -> subprocess.Popen:
    """This module as a process, see `_main`."""
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.tracking", what],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        bufsize=0,
        start_new_session=True,  # Ctrl-C is for the training process, and nothing can prompt
    )


def _last_line(text: bytes) -> str:
    return text.decode(errors="replace").strip().rpartition("\n")[2][:300]


# --- In a process of its own ----------------------------------------------------------------------


def _answer() -> None:
    """Print the Destination as JSON: W&B's settings, and what its server says to the key."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"WANDB_CACHE_DIR": folder, "WANDB_DATA_DIR": folder}  # read on import
        import wandb

        try:
            settings = wandb.setup().settings
        except ValidationError as error:
            raise ValueError(f"W&B's settings: {fault(error)}") from error
        mode, why, url = settings.mode, "", ""
        settings.project = settings.project or PROJECT
        if mode == "online":
            asked = ThreadPoolExecutor(1).submit(lambda: wandb.Api().default_entity)
            try:
                entity = asked.result(ANSWER_SECONDS)  # the server has checked the key
                settings.entity = settings.entity or entity
                url = settings.project_url
            except Exception as error:  # of W&B's service and of the network, of no common kind
                said = one_line(error) or f"no answer within {ANSWER_SECONDS:g} s"
                mode, why = "offline", f"{settings.base_url}: {said}"
        chosen = {"MODE": mode, "BASE_URL": settings.base_url}
        chosen |= {"PROJECT": settings.project, "ENTITY": settings.entity}
        environ = {f"WANDB_{key}": value for key, value in chosen.items() if value}
        print(json.dumps({"mode": mode, "why": why, "url": url, "environ": environ}), flush=True)


def _mirror_run(run: Path) -> None:
    """Mirror what is committed, then go on at each line of stdin."""
    study, arm = run.parents[1], run.parent.name
    info, stored = rundir.unseal(study / "study.json"), rundir.unseal(run / "run.json")
    commit = info["commit"].split(", ")[-1].removesuffix("+changes")
    tags = [info["study"], info["scale"], info["data"]["name"], *arm.split(",")]
    names = {"NAME": f"{arm} {run.name}", "RUN_GROUP": arm, "TAGS": ",".join(dict.fromkeys(tags))}
    names |= {"JOB_TYPE": "train", "PROJECT": PROJECT}
    names |= {} if commit == "unknown" else {"GIT_COMMIT": commit}
    facts = {key: info[key] for key in ("study", "scale", "commit")}
    facts |= {"device": info["hardware"]["device"], "run": f"{arm}/{run.name}"}
    name, config = run_id(info, stored["config"]), stored["config"] | facts
    with _opened(run, name, names, config) as wandb_run:
        # Training is drawn against the images shown, all else against the epoch.
        for axis in ("images", "epoch", "steps"):
            wandb_run.define_metric(axis, hidden=True)
        wandb_run.define_metric("train/*", step_metric="images")
        for key in ("losses/*", "time/*", "samples"):
            wandb_run.define_metric(key, step_metric="epoch")
        wandb_run.define_metric("eval/*", step_metric="epoch", summary="none")

        # These are the run's FILES; the processor is not named in them.
        folder, calibration = Path(tempfile.gettempdir()), study / rundir.CALIBRATION
        told = info | {"hardware": info["hardware"] | {"processor": UNNAMED}}
        files = {"study.json": told, "run.json": stored}
        if calibration.exists():
            files[calibration.name] = rundir.unseal(calibration)
        for file, value in files.items():
            (folder / file).write_bytes(rundir.to_json(value))
        wandb_run.save(str(folder / "*.json"), base_path=str(folder), policy="now")

        last = _follow(wandb_run, run)
    rundir.replace(study / MIRRORS / name / RECEIPT, f"{last}\n".encode())


@contextmanager
def _opened(run: Path, name: str, names: dict, config: dict) -> Iterator[Any]:
    """W&B's run, from its beginning; `names` give way to those of the environment."""
    study, folder = run.parents[1], run.parents[1] / MIRRORS / name
    temporary = folder / "tmp"
    folder.mkdir(parents=True, exist_ok=True)

    # Wait until an earlier, killed process has ended, and drop what it left: it is sent again.
    lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR)  # until this process ends
    fcntl.flock(lock, fcntl.LOCK_EX)
    (folder / RECEIPT).unlink(missing_ok=True)
    for fragment in [temporary, *(study / "wandb").glob(f"*run-*-{name}*")]:
        shutil.rmtree(fragment, ignore_errors=True)
    temporary.mkdir()

    # W&B reads its environment, and makes temporary folders, when it is imported.
    for key, value in (PRIVATE | names).items():
        os.environ[f"WANDB_{key}"] = os.environ.get(f"WANDB_{key}") or value
    os.environ |= {f"WANDB_{key}": value for key, value in ALWAYS.items()}
    os.environ["WANDB_CACHE_DIR"] = tempfile.tempdir = str(temporary)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # the process that trains waits no longer
    try:
        import wandb

        settings = wandb.Settings(
            x_sync_dir_suffix=f"{run.parent.name},{run.name}",
            init_timeout=PATIENCE,
            finish_timeout=PATIENCE / 2,
        )
        resume = "allow" if os.environ["WANDB_MODE"] == "online" else None
        wandb_run = wandb.init(
            id=name, resume=resume, config=config, allow_val_change=True, settings=settings
        )
        yield wandb_run
        wandb_run.finish()
    finally:
        # W&B's logs name the folders of this machine, and must not stay whatever happened.
        for path in [temporary, *(study / "wandb").glob(f"*run-*-{name}*/logs")]:
            shutil.rmtree(path, ignore_errors=True)


def _follow(wandb_run: Any, run: Path) -> int:
    """Log the committed epochs, then up to the one in each line of stdin; returns the last one."""
    # Go on where W&B's server is: for an offline run at the beginning.
    images, epoch = (wandb_run.summary.get(key) or 0 for key in ("images", "epoch"))
    measured: dict[str, dict[int, float]] = defaultdict(dict)
    last, seconds = 0, 0.0
    for line in chain([str(len(rundir.committed(run)))], map(str.strip, sys.stdin)):
        if line == "finish":
            return last
        for number in range(last + 1, int(line) + 1):
            record = rundir.read_json(run, number, rundir.RECORD)
            timing = rundir.read_json(run, number, rundir.TIMING)
            seconds += timing["train_seconds"] + timing["score_seconds"]
            *points, row = _rows(record, timing | {"elapsed_seconds": seconds})
            for point in points:
                if point["images"] > images:
                    wandb_run.log(point)
            if number > epoch:
                wandb_run.log(row | {"samples": _samples(run, record)})
            wandb_run.summary.update(_summary(measured, record))
            last = number
    sys.exit()  # the process that trains has ended; the next one begins anew


def _rows(record: dict, timing: dict) -> list[dict]:
    """The rows of one epoch: the points of its loss curves, then its own; NaN for null."""
    names = {"images": "images", "d_loss": "train/d_loss", "g_loss": "train/g_loss"}
    points = [{name: point[key] for key, name in names.items()} for point in record["curve"]]
    parts = {"eval": record["scores"], "losses": record["losses"], "time": timing}
    row = {key: record[key] for key in rundir.CLOCK}
    row |= {f"{part}/{name}": x for part, values in parts.items() for name, x in values.items()}
    return [{k: math.nan if x is None else x for k, x in row.items()} for row in [*points, row]]


def _samples(run: Path, record: dict) -> Any:
    """The picture of an epoch as W&B takes it, with its score."""
    import wandb

    path = rundir.epoch_folder(run, record["epoch"]) / rundir.SAMPLES
    score = record["scores"].get("fd_cifar")
    caption = "no score" if score is None else f"fd_cifar {score:.1f}"
    return wandb.Image(str(path), caption=f"epoch {record['epoch']}, {caption}")


def _summary(measured: dict[str, dict[int, float]], record: dict) -> dict[str, dict]:
    """The best of each score, its epoch, and the last; W&B's own summary forgets on a resume.

    `measured`: name -> epoch -> score; those of this record are added.
    """
    from eval.metrics import lower_is_better

    summary = {}
    for name, value in record["scores"].items():
        if value is not None:
            best, known = min if lower_is_better(name) else max, measured[name]
            known[record["epoch"]] = value
            epoch = best(known, key=known.get)
            kept = {best.__name__: known[epoch], "best_epoch": epoch, "last": value}
            summary[f"eval/{name}"] = kept
    return summary


def _main(what: str) -> None:
    """`ask`, or mirror the run in this folder."""
    code = 0
    try:
        _answer() if what == "ask" else _mirror_run(Path(what))
    except SystemExit:
        pass
    except Exception as error:
        code, name = 1, "" if what == "ask" else f"{type(error).__name__}: "
        print(f"{name}{one_line(error)}", file=sys.stderr, flush=True)
    if what == "ask":
        os.killpg(0, signal.SIGKILL)  # W&B's service too, which may still wait for its server
    os._exit(code)  # without W&B's exit hook, which would wait for a service that may be gone


if __name__ == "__main__":
    _main(sys.argv[1])
