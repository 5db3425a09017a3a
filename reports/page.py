"""The page: a study as one HTML file that loads nothing."""

import base64
import fnmatch
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from dcgan import rundir
from dcgan.config import Config
from experiments import grid
from reports import figures, findings, tables
from reports.analysis import Analysis
from reports.claims import Verdict
from reports.findings import Findings
from reports.records import PRIMARY, Study
from reports.tables import Table

PAGE_BYTES = 7_800_000  # the pictures get what the rest leaves of it
MOST_PICTURES = (24, 18, 12, 8, 6, 4)  # an arm; the first number whose pictures fit
READOUT = {PRIMARY: PRIMARY, "fid": "FID"} | tables.LOSSES  # beside the film, where measured
SECTIONS = {  # of the page: its figures and tables in the order in which they are read
    "scores": (
        ["fid", PRIMARY, "is", "kid", "*_*"],
        ["last", "best", "epochs-*", "fidelity", "reestimated"],
    ),
    "samples": (["samples"], []),
    "effects": (["effects"], ["arms", "effects*", "batch"]),
    "ledger": ([], ["ledger"]),
    "epochs": (
        ["fluctuation"],
        ["fluctuation", "shares", "selection", "ranks", "regret", "relapse", "reach"],
    ),
    "runs": (["losses"], ["losses", "throughput"]),
    "audit": ([], ["audit*"]),
}
OPENED = {  # all else is folded
    "figures": ["fid", PRIMARY, "samples", "effects", "fluctuation", "losses"],
    "tables": ["last", "arms", "effects", "ledger", "audit"],
}
DEMONSTRATIONS = ("smoke", "small")  # scales
TITLES = {
    "ablation": "What BatchNorm, the head and the batch size do to DCGAN",
    "followups": "What single changes do to DCGAN",
    "kinds": "Images of one kind and of ten, and DCGAN",
    "precision": "The arithmetic that DCGAN is trained in",
}
TARGETS = {"kinds": "followups"}  # of make, where it is not the study's name


def render(
    study: Analysis,
    verdicts: list[Verdict],
    said: Findings,
    shown: list[Table],
    drawn: dict[str, tuple[bytes, str]],
    files: dict[str, bytes],
) -> str:
    """The page as text; `drawn`: name -> (SVG or PNG, caption), `files`: what it offers."""
    pictures = {name: (inline(data, name), text) for name, (data, text) in drawn.items()}
    downloads = {name: _data_uri(data, "text/plain") for name, data in files.items()}
    named = {table.name: table for table in shown}
    analyses = list(study.analyses)
    sections = {
        name: {"figures": _chosen(pictures, some), "tables": [named[x] for x in _chosen(named, x)]}
        for name, (some, x) in (SECTIONS | {"analyses": (analyses, analyses)}).items()
    }
    order = [name for section in sections.values() for name in section["figures"]]
    spent = sum(map(len, [*downloads.values(), *(text for text, _ in pictures.values())]))
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {}  # keys in their own order
    return environment.get_template("page.html").render(
        title=title(study),
        scale=scale(study),
        info=study.info,
        study=study,
        config=study.config,
        levels={key: list(dict.fromkeys(study.plan[key])) for key in ("norm", "batch")},
        findings=said,
        how_sure=findings.how_sure(study),
        tally=findings.tally(verdicts),
        primary=PRIMARY,
        identity=study.identities.get(PRIMARY),
        notes=tables.caption(study),
        missing=tables.missing_lines(study),
        sections=sections,
        opened=OPENED,
        film=filmstrip(study, PAGE_BYTES - 300_000 - spent),
        figures=pictures,
        numbers={name: i for i, name in enumerate(order, start=1)},
        identities=identities(study),
        command=command(study),
        downloads=downloads,
    )


def _chosen(names: dict[str, Any], patterns: list[str]) -> list[str]:
    """The names that fit the patterns, in the order of these."""
    return list(dict.fromkeys(x for y in patterns for x in fnmatch.filter(names, y)))


def title(study: Study) -> str:
    """What the page is called; a study of the user's own by its name."""
    return TITLES.get(study.info["study"], f"DCGAN: {study.info['study']}")


def scale(study: Analysis) -> str:
    """The second line of the page: how much D has seen, and whether that can say anything."""
    epochs = int(study.planned.max())
    text = (
        f"Scale {study.info['scale']}: D sees {study.config.images * epochs:,} images, "
        f"{epochs} times {study.config.images:,}."
    )
    if study.info["scale"] in DEMONSTRATIONS:
        text += " A demonstration: the study is the scale cpu32, 30 times 50,000."
    return text


def command(study: Study) -> str:
    """The line that runs this study again; where the data lie is for the reader to say."""
    info, data = study.info, study.info["data"]
    usual = grid.define(info["study"], info["scale"])
    fields = Config.model_construct(**usual.settings).model_dump()
    fields |= {key: min(fields[key], data["images"]) for key in ("images", "reference_images")}

    # What differs from the scale and the study as they come.
    given = {key: x for key, x in info["settings"].items() if key not in ("data", "data_sha256")}
    changed = [f"{key}={x}" for key, x in given.items() if x != fields.get(key)]
    factors = [
        f"{factor}={','.join(map(str, levels))}"
        for factor, levels in info["factors"].items()
        if levels != usual.factors.get(factor)
    ]
    seeds, some = f" SEEDS={len(info['seeds'])}", []
    if info["seeds"] != list(range(len(info["seeds"]))):
        seeds, some = "", [f"seed={','.join(map(str, info['seeds']))}"]
    zipped = data["kind"] == "zip" and data["name"] != "cifar10"
    source = f"{data['name']}.zip" if zipped else data["name"]
    target = TARGETS.get(info["study"], info["study"])
    line = f"make {target} SCALE={info['scale']}{seeds} DATA={source}"
    arguments = " ".join([*factors, *changed, *some])
    return line + (f' ARGS="{arguments}"' if arguments else "")


def bibtex(study: Study) -> str:
    """The study and the paper that it is about, to be cited."""
    info, data = study.info, study.info["data"]
    return f"""@misc{{{info["study"]}-{info["scale"]}-{data["name"]},
  title = {{{title(study)}}},
  note = {{Scale {info["scale"]}, seeds: {len(info["seeds"])}, commit {info["commit"]},
          data {data["name"]} with SHA-256 {data["sha256"]}}}
}}

@inproceedings{{radford2016dcgan,
  title = {{Unsupervised Representation Learning with Deep Convolutional
           Generative Adversarial Networks}},
  author = {{Radford, Alec and Metz, Luke and Chintala, Soumith}},
  booktitle = {{International Conference on Learning Representations}},
  year = {{2016}},
  eprint = {{1511.06434}},
  archiveprefix = {{arXiv}}
}}
"""


def identities(study: Study) -> dict[str, list]:
    """How the metrics were measured: one column for all that agree in every field."""
    columns: dict[str, list[str]] = {}
    for metric, identity in study.identities.items():
        if metric in study.frame:
            fields = {key: value for key, value in identity.items() if key != "metric"}
            columns.setdefault(json.dumps(fields), []).append(metric)
    table = pd.DataFrame(map(json.loads, columns)).astype(object).fillna("")
    heads = [", ".join(metrics) for metrics in columns.values()]
    return {"heads": heads, "rows": [[key, *table[key]] for key in table]}


def filmstrip(study: Analysis, budget: int) -> dict[str, Any]:
    """The lowest seed of every arm: its numbers, its line in the chart, pictures in `budget` bytes.

    The chart is a unit square: x the epoch, y the logarithm of the primary metric, the best below.
    """
    seed, last = int(study.frame["seed"].min()), int(study.planned.max())
    frame = study.frame[study.frame["seed"] == seed]
    logs = frame[PRIMARY].where(frame[PRIMARY] > 0).map(math.log)
    x = ((frame["epoch"] - 1) / max(1, last - 1)).round(4)
    y = ((logs.max() - logs) / ((logs.max() - logs.min()) or 1)).round(4)
    texts = {text: _texts(frame, name) for name, text in READOUT.items() if name in frame}
    texts = pd.DataFrame(texts)

    # What each arm says at each epoch.
    arms: dict[str, dict[str, Any]] = {}
    for run, rows in frame.groupby("run", sort=False):
        known, epochs = logs[rows.index].dropna(), rows["epoch"]
        colour, line, _ = figures.look_of(study, tuple(rows[study.factors].iloc[0]))
        arms[run.rpartition("/")[0]] = {
            "colour": colour,
            "dashed": line != "-",
            "last": int(epochs.max()),
            "best": int(epochs[known.idxmin()]) if len(known) else None,
            "worst": int(epochs[known.idxmax()]) if len(known) else None,
            "points": {int(epochs[i]): [float(x[i]), float(y[i])] for i in known.index},
            "scores": texts.loc[rows.index].set_axis(epochs).to_dict("index"),
        }
    _add_pictures(study, arms, seed, budget)

    # The arm with the best epoch of all comes first.
    first = max(arms, key=lambda name: max([p[1] for p in arms[name]["points"].values()] or [0]))
    whole = all(arm["frames"].keys() == arm["scores"].keys() for arm in arms.values())
    return {
        "shown": any(arm["frames"] for arm in arms.values()),
        "arm": first,
        "factors": {x: [str(level) for level in study.levels[x]] for x in study.factors},
        "chosen": dict(word.split("=") for word in first.split(",")),
        "seed": seed,
        "last": last,
        "metric": PRIMARY,
        "most": None if whole else max(len(arm["frames"]) for arm in arms.values()),
        "arms": arms,
    }


def _add_pictures(study: Study, arms: dict[str, dict], seed: int, budget: int) -> None:
    """Give each arm its `frames`, epoch -> picture, within the budget."""
    pictures: dict[tuple[str, int], str] = {}
    for most in MOST_PICTURES:
        for name, arm in arms.items():
            run = f"{name}/seed={seed}"
            epochs = [epoch for epoch in arm["scores"] if figures.has_picture(study, run, epoch)]
            arm["frames"] = {}
            for epoch in chosen_epochs(epochs, {arm["best"], arm["worst"]}, most):
                if (name, epoch) not in pictures:
                    data = rundir.read(study.folder / run, epoch, rundir.SAMPLES)
                    pictures[name, epoch] = _webp_uri(data)
                arm["frames"][epoch] = pictures[name, epoch]
        if sum(len(uri) for arm in arms.values() for uri in arm["frames"].values()) <= budget:
            break


def chosen_epochs(epochs: list[int], wanted: set[int | None], most: int) -> list[int]:
    """At most `most` of the epochs: the first, the last and the wanted ones, the others evenly."""
    if len(epochs) <= most:
        return epochs
    even = max(2, most - len(wanted))
    evenly = {epochs[i * (len(epochs) - 1) // (even - 1)] for i in range(even)}
    return [epoch for epoch in epochs if epoch in evenly | wanted]


def inline(data: bytes, name: str) -> str:
    """A figure as a part of the page: its ids apart from others', its text in the page's colour.

    A picture is recompressed; the file beside the page keeps its pixels.
    """
    if data.startswith(b"\x89PNG"):
        return f'<img src="{_webp_uri(data)}" alt="">'
    svg = data.decode()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = svg.replace(figures.GREY, "currentColor")
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _webp_uri(png: bytes) -> str:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.save(buffer, "WEBP", quality=85, method=4)
    return _data_uri(buffer.getvalue(), "image/webp")


def _texts(frame: pd.DataFrame, column: str) -> pd.Series:
    """A number of every row as the tables round it, or why there is none."""
    decimals = tables.decimals_of(column, frame[column])
    absent = frame["status"].map({"ok": "not measured", "diverged": "diverged"})
    shown = frame[column].map(lambda value: tables.rounded(value, decimals))
    return shown.where(frame[column].notna(), absent)
