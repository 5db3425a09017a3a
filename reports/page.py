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
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
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
READOUT = {PRIMARY: PRIMARY, "FID": "fid", "D loss": "d_loss", "G loss": "g_loss"}
SECTIONS = {  # of the page: its figures and its tables, in the order in which they are read
    "effects": (["effects"], ["arms", "effects*", "batch", "last"]),
    "scores": ([], ["best", "epochs-*", "fidelity"]),
    "ledger": ([], ["ledger"]),
    "epochs": (
        ["fid", "*_cifar", "fluctuation", "shares"],
        ["fluctuation", "shares", "selection", "ranks", "regret", "relapse", "reach"],
    ),
    "runs": (["samples", "losses"], ["losses", "throughput"]),
    "audit": ([], ["audit*"]),
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
    found: Findings,
    shown: list[Table],
    drawn: dict[str, tuple[str, str]],
    files: dict[str, bytes],
) -> str:
    """The page as text; `drawn`: name -> (SVG, caption), `files`: what it offers to download."""
    pictures = {name: (inline_svg(svg, name), text) for name, (svg, text) in drawn.items()}
    downloads = [(name, data_uri(data, "text/plain")) for name, data in files.items()]
    named = {table.name: table for table in shown}
    analyses = list(study.analyses)
    sections = {
        section: {
            "figures": [x for pattern in patterns for x in fnmatch.filter(pictures, pattern)],
            "tables": [named[x] for pattern in names for x in fnmatch.filter(named, pattern)],
        }
        for section, (patterns, names) in (SECTIONS | {"analyses": (analyses, analyses)}).items()
    }
    order = [name for section in sections.values() for name in section["figures"]]
    spent = sum(len(text) for text, _ in pictures.values()) + sum(len(x) for _, x in downloads)
    film = filmstrip(study, PAGE_BYTES - 300_000 - spent)

    return template("page.html").render(
        title=title(study),
        info=study.info,
        study=study,
        config=study.config,
        levels={key: list(dict.fromkeys(study.plan[key])) for key in ("norm", "batch")},
        demonstration=demonstration(study),
        findings=found,
        how_sure=findings.how_sure(study),
        tally=findings.tally(verdicts),
        primary=PRIMARY,
        identity=study.identities.get(PRIMARY),
        notes=tables.caption(study),
        missing=tables.missing_lines(study),
        sections=sections,
        film=film,
        film_json=json.dumps(film).replace("<", "\\u003c"),
        figures=pictures,
        numbers={name: i for i, name in enumerate(order, start=1)},
        identities=identities(study),
        command=command(study),
        downloads=downloads,
    )


def template(name: str) -> Template:
    """A page's template, in which a name that is not given is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def title(study: Study) -> str:
    """What the page is called; a study of the user's own by its name."""
    return TITLES.get(study.info["study"], f"DCGAN: {study.info['study']}")


def demonstration(study: Analysis) -> str:
    """What stands below the title of a study that is too small to say anything about DCGAN."""
    if study.info["scale"] not in DEMONSTRATIONS:
        return ""
    shown = int(study.config.images * study.planned.max())
    return (
        f"A demonstration: D has seen {shown:,} images. The study is the scale cpu32, 30 epochs of "
        "50,000."
    )


def command(study: Study) -> str:
    """The line that runs this study again; where the data lie is for the reader to say."""
    info = study.info
    data, settings = info["data"], info["settings"]
    usual = grid.define(info["study"], info["scale"])
    fields = Config.model_construct(**usual.settings).model_dump()
    for key in "images", "reference_images":
        fields[key] = min(fields[key], data["images"])

    # What differs from the scale and the study as they come.
    words = [
        f"{factor}={','.join(map(str, levels))}"
        for factor, levels in info["factors"].items()
        if levels != usual.factors.get(factor)
    ]
    words += [
        f"{key}={value}"
        for key, value in settings.items()
        if key not in ("data", "data_sha256") and value != fields.get(key)
    ]
    seeds = f" SEEDS={len(info['seeds'])}"
    if info["seeds"] != list(range(len(info["seeds"]))):
        words, seeds = [*words, f"seed={','.join(map(str, info['seeds']))}"], ""
    source = {"shapes": "shapes", "zip": f"{data['name']}.zip"}.get(data["kind"], data["name"])
    target = TARGETS.get(info["study"], info["study"])
    line = f"make {target} SCALE={info['scale']}{seeds} DATA={source}"
    return line + (f' ARGS="{" ".join(words)}"' if words else "")


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


def identities(study: Study) -> dict[str, Any]:
    """How the metrics were measured: one column for all that agree in every field."""
    columns: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for metric, identity in study.identities.items():
        if metric in study.frame:
            fields = {key: value for key, value in identity.items() if key != "metric"}
            columns.setdefault(json.dumps(fields), (fields, []))[1].append(metric)
    keys = dict.fromkeys(key for fields, _ in columns.values() for key in fields)
    rows = [(key, [fields.get(key, "") for fields, _ in columns.values()]) for key in keys]
    return {"heads": [", ".join(metrics) for _, metrics in columns.values()], "rows": rows}


def filmstrip(study: Analysis, budget: int) -> dict[str, Any]:
    """The lowest seed of every arm: its numbers, its line in the chart, pictures in `budget` bytes.

    The chart is a unit square: x the epoch, y the logarithm of the primary metric, the best below.
    """
    seed = int(study.frame["seed"].min())
    frame = study.frame[study.frame["seed"] == seed]
    last = int(study.plan["planned"].max())
    logs = frame[PRIMARY].where(frame[PRIMARY] > 0).map(math.log)
    low, high = logs.min(), logs.max()
    x = ((frame["epoch"] - 1) / max(1, last - 1)).round(4)
    y = ((high - logs) / ((high - low) or 1)).round(4)
    texts = {name: _texts(frame, column) for name, column in READOUT.items()}

    # What each arm says at each epoch.
    arms: dict[str, dict[str, Any]] = {}
    for run, rows in frame.groupby("run", sort=False):
        there = logs[rows.index].dropna()
        epochs = rows["epoch"].astype(int)
        shade, line, _ = figures.look_of(study, tuple(rows[study.factors].iloc[0]))
        arms[run.rpartition("/")[0]] = {
            "colour": shade,
            "dashed": line != "-",
            "last": int(epochs.max()),
            "best": int(epochs[there.idxmin()]) if len(there) else None,
            "worst": int(epochs[there.idxmax()]) if len(there) else None,
            "points": {int(epochs[i]): [float(x[i]), float(y[i])] for i in there.index},
            "scores": {
                int(epochs[i]): {name: text[i] for name, text in texts.items()} for i in rows.index
            },
        }

    # As many pictures as the budget allows.
    pictures: dict[tuple[str, int], str] = {}
    for most in MOST_PICTURES:
        for name, arm in arms.items():
            arm["frames"] = {}
            run = f"{name}/seed={seed}"
            there = [e for e in arm["scores"] if figures.has_picture(study, run, e)]
            for epoch in chosen_epochs(there, {arm["best"], arm["worst"]}, most):
                if (name, epoch) not in pictures:
                    data = rundir.read(study.folder / run, epoch, rundir.SAMPLES)
                    pictures[name, epoch] = _webp_uri(data)
                arm["frames"][epoch] = pictures[name, epoch]
        if sum(len(uri) for arm in arms.values() for uri in arm["frames"].values()) <= budget:
            break

    # The arm with the best epoch of all comes first.
    first = min(arms, key=lambda name: -max([p[1] for p in arms[name]["points"].values()] or [0]))
    cells = {name: dict(word.split("=") for word in name.split(",")) for name in arms}
    return {
        "shown": any(arm["frames"] for arm in arms.values()),
        "arm": first,
        "factors": {
            factor: list(dict.fromkeys(cell[factor] for cell in cells.values()))
            for factor in cells[first]
        },
        "chosen": cells[first],
        "seed": seed,
        "last": last,
        "metric": PRIMARY,
        "most": None
        if all(arm["frames"].keys() == arm["scores"].keys() for arm in arms.values())
        else most,
        "levels": [
            {"text": f"{level:g}", "y": round((high - math.log(level)) / (high - low), 4)}
            for level in (m * 10**k for k in range(-4, 7) for m in (1, 2, 5))
            if low < math.log(level) < high
        ],
        "arms": arms,
    }


def chosen_epochs(epochs: list[int], wanted: set[int | None], most: int) -> list[int]:
    """At most `most` of the epochs: the first, the last and the wanted ones, the others evenly."""
    if len(epochs) <= most:
        return epochs
    even = max(2, most - len(wanted))
    evenly = {epochs[i * (len(epochs) - 1) // (even - 1)] for i in range(even)}
    return [epoch for epoch in epochs if epoch in evenly | wanted]


def inline_svg(svg: str, name: str) -> str:
    """A figure as a part of the page, its ids apart from others', its text in the page's colour.

    Pictures in it are recompressed as those of the film are; the files beside the page keep them.
    """
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(
        r"data:image/png;base64,([\w+/=\s]+)",
        lambda found: _webp_uri(base64.b64decode(found[1])),
        svg,
    )
    svg = re.sub(r' id="image\w+"', "", svg)  # equal pictures have equal ones
    svg = svg.replace(figures.GREY, "currentColor")
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)


def data_uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _webp_uri(png: bytes) -> str:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.save(buffer, "WEBP", quality=85, method=4)
    return data_uri(buffer.getvalue(), "image/webp")


def _texts(frame: pd.DataFrame, column: str) -> pd.Series:
    """A number of every row as the tables round it, or why there is none."""
    if column not in frame:
        return pd.Series("not measured", frame.index)
    decimals = tables.decimals_of(column, frame[column])
    absent = frame["status"].map({"ok": "not measured", "diverged": "diverged"})
    shown = frame[column].map(lambda value: tables.rounded(value, decimals))
    return shown.where(frame[column].notna(), absent)
