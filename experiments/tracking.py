"""The W&B mirror of a study: a projection of its committed epochs, which can always be made again.

    train/d_loss, train/g_loss                    against images   about twenty rows an epoch
    eval/<score>, losses/<loss>, time/*, samples  against epoch    one row an epoch
    config, study.json, run.json                  that of the run, and its files

A number that is not finite is NaN. The report can be made from it: see reports.from_wandb.
A run of job type `report` has the records of each arm as a table, the figures and the page.
WANDB_ARTIFACTS=models adds each run's last generator as an artifact, and the data as a reference
that carries their SHA-256 and nothing of the images.

All of W&B's files lie in <study>/wandb. W&B is only called in processes of its own, which read
what is committed: no epoch waits for it, neither at the start nor when it hangs or dies. Where
runs go is W&B's own answer; see `ask`.
"""

import fcntl
import hashlib
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from dcgan import rundir
from dcgan.cli import BadInput
from dcgan.config import Config
from experiments import grid

MODES = {"run": "online", "dryrun": "offline"} | {m: m for m in ("online", "offline", "disabled")}
PROJECT = "dcgan-study"  # unless W&B's settings name one
PATIENCE = 30.0  # seconds that a finished run waits for its mirror
ANSWER_SECONDS = 10.0  # that W&B's server has to answer in
CLOCK = ("epoch", "images", "steps", "status")  # of an epoch's record, under these very names
FILES = ("study.json", "run.json", rundir.CALIBRATION)  # of a run, as W&B has them
UNNAMED = "a processor that W&B is not told"
RECEIPT = "finished"  # the file that says what a mirror was finished with

# What W&B is not told unless the environment says otherwise: about the machine, but the device.
SWITCHES = ("DISABLE_GIT", "LABEL_DISABLE", "X_DISABLE_META", "X_DISABLE_STATS")
PRIVATE = dict.fromkeys(SWITCHES, "true") | {"HOST": "", "X_SAVE_REQUIREMENTS": "false"}
ALWAYS = {"PROGRAM": "experiments", "SILENT": "true", "SYMLINK": "false"}
ALWAYS |= {"CONSOLE": "off", "SAVE_CODE": "false", "X_TRANSACTION_LOG_FLUSH_INTERVAL": "1"}
IGNORED = {  # variables of W&B that a user may set, and why they change nothing
    "WANDB_CONSOLE": "the process that writes to W&B prints nothing",
    "WANDB_DIR": "W&B's files lie in the study's folder",
    "WANDB_RESUME": "a run always goes on from what is committed",
    "WANDB_RUN_ID": "the id of a run follows from its config",
    "WANDB_SAVE_CODE": "every run has the commit of its code",
}

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

    name: str  # of the run, for people
    process: subprocess.Popen | None  # None when W&B is disabled

    def log(self, epoch: int) -> None:
        """Mirror a committed epoch. Returns at once: W&B's process reads the files itself."""
        self._write(str(epoch))

    def finish(self) -> str:
        """Wait until W&B has everything, but at most PATIENCE seconds; why it has not, or ""."""
        if self.process is None:
            return ""
        self._write("finish")
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return f"{self.name}: no answer within {PATIENCE:g} s"
        if code == 0:
            return ""
        os.set_blocking(self.process.stderr.fileno(), False)  # W&B's service may have it open
        why = _last_line(self.process.stderr.read() or b"")
        return f"{self.name}: {why or f'exit {code}'}"

    def _write(self, line: str) -> None:
        if self.process:
            with suppress(OSError):  # it has ended, and said why
                self.process.stdin.write(f"{line}\n".encode())


def ask(**environ: str) -> subprocess.Popen | None:
    """Begin to ask W&B where runs go, in a process of its own: `destination` has the answer.

    None where WANDB_MODE=disabled, which needs no answer. `environ` is beside the environment.
    """
    environ = {**os.environ, "WANDB_ERROR_REPORTING": "false", **environ}
    return None if environ.get("WANDB_MODE") == "disabled" else _spawn("ask", environ)


def destination(asked: subprocess.Popen | None) -> Destination:
    """Where runs go, by W&B's own settings, and online by its server; raises BadInput.

    Without an answer of the server within ANSWER_SECONDS, runs are offline.
    """
    if (artifacts := os.environ.get("WANDB_ARTIFACTS", "")) not in ("", "models"):
        raise BadInput(f"WANDB_ARTIFACTS={artifacts} is not models")
    if asked is None:
        return Destination("disabled", "", "", {"WANDB_MODE": "disabled"})
    settings = asked.stdout.readline()  # which takes W&B's import
    try:
        server, err = asked.communicate(timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(asked.pid, signal.SIGKILL)
        server, err = b"", f"no answer within {ANSWER_SECONDS:g} s".encode()
        asked.wait()
    if not settings:
        raise BadInput(_last_line(err))
    environ, why, url = json.loads(settings), "", ""
    if environ["WANDB_MODE"] == "online":
        try:
            url = json.loads(server)["url"]
            environ["WANDB_ENTITY"] = json.loads(server)["entity"]
        except ValueError:  # the server's answer is none
            environ["WANDB_MODE"] = "offline"
            why = f"{environ['WANDB_BASE_URL']}: {_last_line(err)}"
    return Destination(environ["WANDB_MODE"], why, url, environ)


def describe(to: Destination, study: Path) -> str:
    """Where the runs of a study go, for its plan, and what of the environment changes nothing."""
    in_sweep = "WANDB_SWEEP_ID" in os.environ  # whose agent sets the id
    lines = [to.mode + (f", {to.url}" if to.url else "") + (f" ({to.why})" if to.why else "")]
    if to.mode == "offline":
        lines[0] += f"; to upload: python -m experiments sync {shlex.quote(str(study))}"
    for name in IGNORED if to.mode != "disabled" else ():
        if os.environ.get(name) and not (in_sweep and name == "WANDB_RUN_ID"):
            lines.append(f"{name} is ignored: {IGNORED[name]}")
    return "\n        ".join(lines)


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
    return _digest([info["study"], info["scale"], kept])


def is_mirrored(study: Path, info: dict, config: dict, epoch: int) -> bool:
    """Whether the mirror of this run was finished after this epoch."""
    return _has_receipt(_folder(study, run_id(info, config)), str(epoch))


def start(study: Path, run: Path, info: dict, config: dict, mode: str) -> Mirror:
    """Begin to mirror a run: first its committed epochs, then those given to Mirror.log.

    info is the content of study.json, mode one of online, offline and disabled. Why W&B failed is
    what finish() returns.
    """
    arm, name = run.parent.name, f"{run.parent.name} {run.name}"
    if mode == "disabled":
        return Mirror(name, None)
    tags = [info["study"], info["scale"], info["data"]["name"], *arm.split(",")]
    names = {"NAME": name, "RUN_GROUP": arm, "TAGS": ",".join(dict.fromkeys(tags))}
    commit = info["commit"].split(", ")[-1].removesuffix("+changes")
    names |= {} if commit == "unknown" else {"GIT_COMMIT": commit}
    given = {"run": str(run.absolute()), "info": info, "config": config}
    return _start(study, name, names | {"JOB_TYPE": "train"}, given, mode)


def start_report(study: Path, mode: str) -> Mirror:
    """Begin to mirror the report of a study, unless W&B has this very report; see `start`."""
    page = study / "report" / "index.html"
    if mode == "disabled" or not page.exists():
        return Mirror("report", None)
    info = rundir.unseal(study / "study.json")
    name = _digest([info["study"], info["scale"], info["data"]["sha256"], "report"])
    key = hashlib.sha256(page.read_bytes()).hexdigest()
    if _has_receipt(_folder(study, name), key):
        return Mirror("report", None)
    names = {"NAME": f"report of {study.name}", "JOB_TYPE": "report"}
    return _start(study, "report", names, {"report": name, "key": key}, mode)


def environment(study: Path) -> dict[str, str]:
    """The environment in which W&B writes inside the study only, and reports no errors home."""
    names = ("DATA", "CACHE", "ARTIFACT")
    folders = {f"WANDB_{name}_DIR": str(study / "wandb" / name.lower()) for name in names}
    return {**folders, "WANDB_DIR": str(study), "WANDB_ERROR_REPORTING": "false"}


def run_wandb(study: Path, *words: str) -> int:
    """Run W&B's own command line on the runs of a study: `leet` or `sync`; its exit code.

    2 where there are no runs, or no server for `sync`, which is said.
    """
    home = study.absolute() / "wandb"
    if not any(home.glob("*run-*")):
        print(f"{study} has no W&B runs", file=sys.stderr)
        return 2
    environ = {**os.environ, **environment(study.absolute())}
    if words[0] == "sync":
        to = destination(ask(WANDB_MODE="online"))
        if not to.url:
            print(f"sync: {to.why}", file=sys.stderr)
            return 2
        environ |= to.environ
    command = [sys.executable, "-m", "wandb", *words, str(home)]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # W&B's program ends itself
    try:
        return subprocess.run(command, env=environ).returncode
    except KeyboardInterrupt:
        return 130


def _start(study: Path, name: str, names: dict[str, str], given: dict, mode: str) -> Mirror:
    """Begin to mirror what is given; the environment's own names of a run beat ours."""
    ours = {f"WANDB_{key}": value for key, value in (PRIVATE | names).items()}
    theirs = {key: value for key, value in os.environ.items() if value or key not in ours}
    always = {f"WANDB_{key}": value for key, value in (ALWAYS | {"MODE": mode}).items()}
    environ = ours | theirs | environment(study.absolute()) | always
    mirror = Mirror(name, _spawn("mirror", environ))
    mirror._write(json.dumps({"study": str(study.absolute()), **given}))
    return mirror


def _spawn(word: str, environ: dict[str, str]) -> subprocess.Popen:
    """This module as a process: `ask` or `mirror`."""
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.tracking", word],
        stdin=subprocess.DEVNULL if word == "ask" else subprocess.PIPE,
        stdout=subprocess.PIPE if word == "ask" else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**environ, "PYTHONPATH": path},
        bufsize=0,
        start_new_session=True,  # Ctrl-C is for the training process, and nothing can prompt
    )


def _last_line(text: bytes) -> str:
    lines = [line.strip() for line in text.decode(errors="replace").split("\n")]
    return next((line[:300] for line in reversed(lines) if line), "")


def _digest(value: list) -> str:
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _folder(study: Path, name: str) -> Path:
    """The folder in which a mirror keeps its lock, its receipt and temporary files."""
    return study / "wandb" / "mirrors" / name


def _has_receipt(folder: Path, text: str) -> bool:
    try:
        return (folder / RECEIPT).read_text() == f"{text}\n"
    except OSError:
        return False


# --- In a process of its own ----------------------------------------------------------------------


def _answer() -> None:
    """Print W&B's settings, and then what its server says to the key, one line of JSON each."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"WANDB_CACHE_DIR": folder, "WANDB_DATA_DIR": folder}  # read on import
        import wandb

        try:
            settings = wandb.setup().settings
        except ValueError as error:
            (fault, *_) = error.errors()  # it is pydantic's
            name = str(fault["loc"][0]).upper()
            raise ValueError(f"WANDB_{name}={fault['input']}: {fault['msg']}") from error
        if settings.mode not in MODES:
            raise ValueError(f"WANDB_MODE={settings.mode} is for runs that several processes write")
        mode, settings.project = MODES[settings.mode], settings.project or PROJECT
        said = {"MODE": mode, "BASE_URL": settings.base_url, "PROJECT": settings.project}
        said |= {"ENTITY": settings.entity} if settings.entity else {}
        print(json.dumps({f"WANDB_{key}": text for key, text in said.items()}), flush=True)
        if mode == "online":
            entity = wandb.Api(timeout=int(ANSWER_SECONDS)).default_entity  # checks the key
            settings.entity = settings.entity or entity
            print(json.dumps({"entity": settings.entity, "url": settings.project_url}), flush=True)


def _mirror(study: Path, run: Path, info: dict, config: dict) -> None:
    """Mirror what is committed, then go on at each line of stdin."""
    # Go on where the server is, which is at the beginning for an offline run.
    folder = _folder(study, run_id(info, config))
    name = _claim(study, folder)
    label = f"{run.parent.name},{run.name}"
    shown = {key: info[key] for key in ("study", "scale", "commit")}
    shown |= {"device": info["hardware"]["device"], "run": f"{run.parent.name}/{run.name}"}
    wandb_run = _open(study, name, label, {**config, **shown})
    _define_axes(wandb_run)
    _drop_logs(study, folder)
    _save_files(wandb_run, run, info, folder / "tmp")
    images = wandb_run.summary.get("images") or 0
    epoch = wandb_run.summary.get("epoch") or 0
    summary: dict[str, dict] = {}
    last, seconds = 0, 0.0
    for line in chain([str(len(rundir.committed(run)))], map(str.strip, sys.stdin)):
        if line == "finish":
            break
        for number in range(last + 1, int(line) + 1):
            record = rundir.read_json(run, number, rundir.RECORD)
            timing = rundir.read_json(run, number, rundir.TIMING)
            seconds += sum(value for key, value in timing.items() if key.endswith("_seconds"))
            _log_curve(wandb_run, record, images)
            if number > epoch:
                _log_epoch(wandb_run, run, record, timing | {"elapsed_seconds": seconds})
            _summarise(summary, number, record["scores"])
            wandb_run.summary.update(summary)
            last = number
    else:
        shutil.rmtree(folder / "tmp", ignore_errors=True)
        os._exit(0)  # the run was stopped: the next process begins anew

    # Close the run, then note that the mirror is complete.
    if last == config["epochs"] and os.environ.get("WANDB_ARTIFACTS"):
        _attach(wandb_run, run, info, last)
    _close(wandb_run, study, folder, str(last))


def _mirror_report(study: Path, name: str, key: str) -> None:
    """Send the report of a study as a run: a table of each arm, the figures, the page."""
    import pandas as pd
    import wandb

    folder, report = _folder(study, name), study / "report"
    _claim(study, folder)
    wandb_run = _open(study, name, "report", {"report": study.name})
    _drop_logs(study, folder)
    records = pd.read_csv(report / "records.csv")
    arms = records["run"].str.rpartition("/")[0]
    by_arm = records.groupby(arms, sort=False)
    shown = {f"records/{arm}": wandb.Table(dataframe=rows) for arm, rows in by_arm}
    for title, table in shown.items():
        table.bind_to_run(wandb_run, title, 0)  # else it is an artifact too, which names folders
    for path in sorted(report.glob("figures/*.png")):
        shown[f"figures/{path.stem}"] = wandb.Image(str(path))
    wandb_run.log({**shown, "page": wandb.Html(str(report / "index.html"), inject=False)})
    _close(wandb_run, study, folder, key)


def _claim(study: Path, folder: Path) -> str:
    """Make this process the only one that sends a mirror, from the beginning; W&B's id of it."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(study / "wandb", os.W_OK):
        raise PermissionError(f"{study / 'wandb'} is not writable")

    # Wait until an earlier, killed process has ended, and withdraw its receipt.
    lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR)  # until this process ends
    fcntl.flock(lock, fcntl.LOCK_EX)
    (folder / RECEIPT).unlink(missing_ok=True)

    # Drop what that process left: whatever the server does not have is sent again.
    name, temporary = _name(folder), folder / "tmp"
    for fragment in [temporary, *(study / "wandb").glob(f"*run-*-{name}*")]:
        if fragment.exists():
            shutil.rmtree(fragment)
    temporary.mkdir()
    tempfile.tempdir = str(temporary)  # W&B makes temporary folders when it is imported
    os.environ["WANDB_CACHE_DIR"] = str(temporary)  # and its service a log
    return name


def _name(folder: Path) -> str:
    """W&B's id of a run: ours, but in a sweep the one that the agent was given."""
    in_sweep = os.environ.get("WANDB_SWEEP_ID")
    return (in_sweep and os.environ.get("WANDB_RUN_ID")) or folder.name


def _open(study: Path, name: str, label: str, config: dict) -> Any:
    """W&B's run; what else it is called and says comes from the environment."""
    import wandb  # takes about a second, and only this process needs it

    return wandb.init(
        dir=str(study),
        id=name,
        resume="allow" if os.environ["WANDB_MODE"] == "online" else None,
        project=os.environ.get("WANDB_PROJECT") or PROJECT,
        config=config,
        settings=wandb.Settings(
            allow_val_change=True,
            x_sync_dir_suffix=label,  # the end of its folder's name
            init_timeout=PATIENCE,
            finish_timeout=PATIENCE / 2,
        ),
    )


def _define_axes(wandb_run: Any) -> None:
    """Training is drawn against the images shown, all else against the epoch."""
    for name in ("images", "epoch", "steps"):
        wandb_run.define_metric(name, hidden=True)
    wandb_run.define_metric("train/*", step_metric="images")
    for name in ("losses/*", "time/*", "samples"):
        wandb_run.define_metric(name, step_metric="epoch")
    wandb_run.define_metric("eval/*", step_metric="epoch", summary="none")


def _save_files(wandb_run: Any, run: Path, info: dict, temporary: Path) -> None:
    """Give W&B the run's three files; the processor is not named in them."""
    study, stated = run.parents[1], {**info["hardware"], "processor": UNNAMED}
    values = [{**info, "hardware": stated}, rundir.unseal(run / "run.json")]
    if (study / rundir.CALIBRATION).exists():
        values.append(rundir.unseal(study / rundir.CALIBRATION))
    for name, value in zip(FILES, values, strict=False):
        (temporary / name).write_bytes(rundir.to_json(value))
    wandb_run.save(str(temporary / "*.json"), base_path=str(temporary), policy="now")


def _log_curve(wandb_run: Any, record: dict, images: int) -> None:
    """Log the points of an epoch's loss curves that lie after so many images."""
    names = {"images": "images", "d_loss": "train/d_loss", "g_loss": "train/g_loss"}
    for point in record["curve"]:
        if point["images"] > images:
            wandb_run.log(_numbers({name: point[key] for key, name in names.items()}))


def _log_epoch(wandb_run: Any, run: Path, record: dict, timing: dict) -> None:
    """Log the row of one committed epoch."""
    import wandb

    samples = rundir.epoch_folder(run, record["epoch"]) / rundir.SAMPLES
    row = {key: record[key] for key in CLOCK}
    row |= {f"eval/{name}": value for name, value in record["scores"].items()}
    row |= {f"losses/{name}": value for name, value in record["losses"].items()}
    row |= {f"time/{name}": value for name, value in timing.items()}
    score = record["scores"].get("fd_cifar")
    caption = f"epoch {record['epoch']}, " + (
        "no score" if score is None else f"fd_cifar {score:.1f}"
    )
    wandb_run.log({**_numbers(row), "samples": wandb.Image(str(samples), caption=caption)})


def _attach(wandb_run: Any, run: Path, info: dict, epoch: int) -> None:
    """Add the run's generator as a model, and its data as a reference without the images.

    The model is the committed file in its place, which an offline run names and `wandb sync` reads.
    """
    import wandb

    folder, data = rundir.epoch_folder(run, epoch), info["data"]
    facts = {"run": f"{run.parent.name}/{run.name}", "epoch": epoch}
    digest = hashlib.sha256(rundir.read(run, epoch, rundir.GENERATOR)).hexdigest()
    name = f"generator-{wandb_run.id}"
    model = wandb.Artifact(name, type="model", metadata={**facts, "sha256": digest})
    model.add_file(str(folder / rundir.GENERATOR), rundir.GENERATOR, policy="immutable")
    wandb_run.log_artifact(model)

    images = wandb.Artifact(f"data-{data['name']}", type="dataset", metadata=data)
    images.add_reference(f"sha256:{data['sha256']}", name="images", checksum=False)
    wandb_run.log_artifact(images)  # an offline run may not use one


def _summarise(summary: dict[str, dict], epoch: int, scores: dict) -> None:
    """Keep of each score the best, its epoch and the last: W&B's own forget on a resume."""
    from eval.metrics import lower_is_better

    for name, value in scores.items():
        if value is None:
            continue
        word, sign = ("min", 1) if lower_is_better(name) else ("max", -1)
        best = summary.get(f"eval/{name}", {word: sign * math.inf})
        if sign * value < sign * best[word]:
            best = {word: value, "best_epoch": epoch}
        summary[f"eval/{name}"] = {**best, "last": value}


def _numbers(row: dict) -> dict:
    """A row as W&B takes it: what was not finite is null in a record, and NaN here."""
    return {name: math.nan if value is None else value for name, value in row.items()}


def _drop_logs(study: Path, folder: Path) -> None:
    """Unlink W&B's logs, written to or not: they name the folders of this machine."""
    logs = (study / "wandb").glob(f"*run-*-{_name(folder)}*/logs")
    for path in [folder / "tmp/wandb/logs", *logs]:
        shutil.rmtree(path, ignore_errors=True)


def _close(wandb_run: Any, study: Path, folder: Path, receipt: str) -> None:
    """Wait until W&B has everything, and note what the mirror was finished with."""
    wandb_run.finish()
    _drop_logs(study, folder)
    shutil.rmtree(folder / "tmp")
    rundir.replace(folder / RECEIPT, f"{receipt}\n".encode())


def _main(word: str) -> None:
    try:
        if word == "ask":
            _answer()
        elif given := json.loads(sys.stdin.readline() or "{}"):
            study = Path(given.pop("study"))
            if "run" in given:
                _mirror(study, Path(given["run"]), given["info"], given["config"])
            else:
                _mirror_report(study, given["report"], given["key"])
    except Exception as error:
        kind = "" if word == "ask" else f"{type(error).__name__}: "
        print(kind + " ".join(str(error).split()), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)  # without W&B's exit hook, which would wait for a service that may be gone


if __name__ == "__main__":
    _main(sys.argv[1])
