"""The page: a study as one HTML file that loads nothing."""

import base64
import fnmatch
import io
import re
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from PIL import Image, WebPImagePlugin  # without the latter Pillow imports all of its formats

from dcgan import rundir
from experiments import grid
from reports import figures, findings, tables
from reports.analysis import Analysis
from reports.claims import Verdict
from reports.findings import Findings
from reports.records import PRIMARY, Study, calibrated
from reports.statistics import logarithm
from reports.tables import Table

MOST_PICTURES = 12  # of an arm in the film
READOUT = {PRIMARY: PRIMARY, "fid": "FID"} | tables.LOSSES  # beside the film, where measured
SECTIONS = {  # of the page: its figures and tables in the order in which they are read
    "scores": (
        ["fid", PRIMARY, "is", "kid", "*_*"],
        ["last", "agreement", "best", "epochs-*", "fidelity", "reestimated"],
    ),
    "samples": (["samples", "strip"], []),
    "effects": (["effects"], ["arms", "effects*", "batch"]),
    "ledger": ([], ["ledger"]),
    "epochs": (
        ["fluctuation"],
        ["fluctuation", "shares", "selection", "ranks", "regret", "relapse", "reach"],
    ),
    "runs": (["losses"], ["losses"]),
    "networks": ([], ["layers"]),
}
OPENED = {  # all else is folded
    "figures": ["fid", PRIMARY, "samples", "effects", "fluctuation", "losses"],
    "tables": ["last", "agreement", "arms", "ledger"],
}
DEMONSTRATIONS = ("smoke", "small")  # scales
TEXTS, LITERATURE = (
    yaml.safe_load(Path(__file__).with_name(name).read_text(encoding="utf-8"))
    for name in ("page.yaml", "literature.yaml")
)
TARGETS = ("ablation", "followups", "precision")  # studies that make knows by their name


ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=select_autoescape(),  # what ends in .html
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.policies["json.dumps_kwargs"] = {}  # keys in their own order
ENVIRONMENT.filters |= {"markdown": tables.escape_markdown, "rows": tables.to_markdown}


def render(
    study: Analysis,
    verdicts: list[Verdict],
    said: Findings,
    shown: list[Table],
    drawn: dict[str, tuple[Path, str]],
    files: dict[str, bytes],
) -> tuple[str, str]:
    """The page, and the same for a reader of Markdown, whose figures lie in figures/.

    `drawn`: name -> (file, caption), `files`: what the page offers.
    """
    named = {table.name: table for table in shown}
    analyses = list(study.analyses)
    sections = {
        name: {"figures": _chosen(drawn, some), "tables": [named[x] for x in _chosen(named, x)]}
        for name, (some, x) in (SECTIONS | {"analyses": (analyses, analyses)}).items()
    }
    order = [name for section in sections.values() for name in section["figures"]]
    told = (title, scale, on_what, command, limits, bibtex, filmstrip, findings.how_sure)
    told += (tables.caption, tables.machine_lines, tables.missing_lines, tables.identity_lines)
    facts = {tell.__name__: tell(study) for tell in told} | {
        "study": study,
        "primary": PRIMARY,
        "findings": said,
        "tally": findings.tally(study, verdicts),
        "about_claims": TEXTS["about_claims"],
        "sections": sections,
        "opened": OPENED,
        "numbers": {name: i for i, name in enumerate(order, start=1)},
        "headings": tables.FACTORS,
        "cite": cite,
        "values": partial(values, study),
        "downloads": {name: _data_uri(data, "text/plain") for name, data in files.items()},
    }
    inlined = {name: (inline(path, name), text) for name, (path, text) in drawn.items()}
    html = ENVIRONMENT.get_template("page.html").render(facts, **LITERATURE, figures=inlined)
    linked = {name: (f"figures/{path.name}", text) for name, (path, text) in drawn.items()}
    markdown = ENVIRONMENT.get_template("report.md").render(facts, figures=linked)
    return html, re.sub(r"\n{3,}", "\n\n", markdown)


def _chosen(names: dict[str, Any], patterns: list[str]) -> list[str]:
    """The names that fit the patterns, in the order of these."""
    return list(dict.fromkeys(x for y in patterns for x in fnmatch.filter(names, y)))


def title(study: Study) -> str:
    return TEXTS["titles"].get(study.info["study"], f"DCGAN: {study.info['study']}")


def scale(study: Analysis) -> str:
    """The second line of the page: how much D has seen, and whether that can say anything."""
    shown = study.config.images * int(study.planned.max())
    text = TEXTS["scale"].format(study=study, shown=shown)
    return " ".join([text, *[TEXTS["demonstration"]] * (study.info["scale"] in DEMONSTRATIONS)])


def on_what(study: Analysis) -> str:
    """The images, and what the primary metric is."""
    config, metric = study.config, study.identities.get(PRIMARY)
    epochs = tables.count(study.planned.max(), "epoch")
    size = f"{config.resolution}×{config.resolution}"
    text = TEXTS["data"].format(study=study, config=config, size=size, epochs=epochs)
    if not metric:
        return f"{text}."
    not_fid = "" if "fid" in study.frame else "; it is not FID"
    return f"{text}. {TEXTS['metric'].format(primary=PRIMARY, metric=metric)}{not_fid}."


def command(study: Study) -> str:
    """The line that runs this study again; where the data lie is for the reader to say."""
    info, data = study.info, study.info["data"]
    usual = grid.define(info["study"], info["scale"]).factors
    chosen = {x: levels for x, levels in info["factors"].items() if levels != usual.get(x)}
    words = [f"{factor}={','.join(map(str, levels))}" for factor, levels in chosen.items()]
    words += grid.differing(info)
    options = {"scale": info["scale"], "seeds": len(info["seeds"])}
    if info["seeds"] != list(range(len(info["seeds"]))):
        del options["seeds"]
        words.append(f"seed={','.join(map(str, info['seeds']))}")
    zipped = data["kind"] == "zip" and data["name"] != "cifar10"
    options["data"] = f"{data['name']}.zip" if zipped else data["name"]
    if info["study"] not in TARGETS:
        given = [f"--{key} {value}" for key, value in options.items()]
        return " ".join([".venv/bin/python -m experiments", info["study"], *given, *words])
    given = [f"{key.upper()}={value}" for key, value in options.items()]
    line = " ".join(["make", info["study"], *given])
    return line + (f' ARGS="{" ".join(words)}"' if words else "")


def bibtex(study: Study) -> str:
    """The study and what it cites."""
    info, data = study.info, study.info["data"]
    own = {
        "title": title(study),
        "note": f"Scale {info['scale']}, seeds: {len(info['seeds'])}, commit {info['commit']}, "
        f"data {data['name']} with SHA-256 {data['sha256']}",
    }
    entries = {f"{info['study']}-{info['scale']}-{data['name']}": own} | LITERATURE["references"]
    texts = []
    for key, fields in entries.items():
        lines = [f"  {name} = {{{value}}}" for name, value in fields.items()]
        texts.append(",\n".join([f"@misc{{{key}", *lines]) + "\n}\n")
    return "\n".join(texts)


def cite(key: str) -> str:
    """`Sato and Iiduka, 2023`, `Heusel et al., 2017`, `pytorch-gan-collections`."""
    reference = LITERATURE["references"][key]
    if "year" not in reference:  # software
        return reference["title"]
    names = [author.partition(",")[0] for author in reference["author"].split(" and ")]
    who = f"{names[0]} et al." if len(names) > 2 else " and ".join(names)
    return f"{who}, {reference['year']}"


def values(study: Analysis, field: str, names: dict[str, str] | None = None) -> str:
    """`0.0001 and 0.0002`: what a field of Config is in the arms; `names`: of its levels."""
    texts = [f"{x:g}" if isinstance(x, float) else str(x) for x in study.values[field]]
    return tables.join([(names or {}).get(text, text) for text in texts])


def limits(study: Analysis) -> str:
    """What this study cannot say."""
    gaussian, coarse = calibrated(study, PRIMARY).reindex(["gaussian", "8x8"])
    said = {"limits": True, "coarse": gaussian < coarse, "no FID": "fid" not in study.frame}
    facts = {"config": study.config, "epochs": study.planned.max(), "primary": PRIMARY}
    facts |= {"blog": grid.define("ablation", "blog64").settings}
    facts |= {"gaussian": gaussian, "coarse": coarse}
    return " ".join(TEXTS[name].format(**facts) for name, holds in said.items() if holds)


def filmstrip(study: Analysis) -> dict[str, Any]:
    """The lowest seed of every arm: its numbers, its line in the chart, at most 12 pictures.

    The chart is a unit square: x the epoch, y the logarithm of the primary metric, the best below.
    """
    seed, last = int(study.frame["seed"].min()), int(study.planned.max())
    frame = study.frame[study.frame["seed"] == seed]
    logs = logarithm(frame[PRIMARY])
    x = ((frame["epoch"] - 1) / max(1, last - 1)).round(4)
    y = ((logs.max() - logs) / ((logs.max() - logs.min()) or 1)).round(4)
    readout = {text: name for name, text in READOUT.items() if name in frame}
    texts = pd.DataFrame({text: _texts(frame, name) for text, name in readout.items()})

    # What each arm says at each epoch.
    arms: dict[str, dict[str, Any]] = {}
    for run, rows in frame.groupby("run", sort=False):
        known, epochs = logs[rows.index].dropna(), rows["epoch"]
        levels = {factor: rows[factor].iloc[0] for factor in study.factors}
        colour, line, _ = figures.look_of(study, tuple(levels.values()))
        name = ",".join(f"{factor}={level}" for factor, level in levels.items())
        arms[name] = {
            "colour": colour,
            "dashed": line != "-",
            "last": int(epochs.max()),
            "best": int(epochs[known.idxmin()]) if len(known) else None,
            "worst": int(epochs[known.idxmax()]) if len(known) else None,
            "points": {int(epochs[i]): [float(x[i]), float(y[i])] for i in known.index},
            "scores": texts.loc[rows.index].set_axis(epochs).to_dict("index"),
        }
        arms[name]["frames"] = _frames(study, run, arms[name])

    # The arm with the best epoch of all comes first.
    first = max(arms, key=lambda name: max([y for _, y in arms[name]["points"].values()] or [0]))
    pictured = {epoch for arm in arms.values() for epoch in arm["frames"]}
    whole = all(arm["frames"].keys() == arm["scores"].keys() for arm in arms.values())
    return {
        "shown": any(arm["frames"] for arm in arms.values()),
        "arm": first,
        "factors": {x: [str(level) for level in study.levels[x]] for x in study.factors},
        "chosen": dict(word.split("=") for word in first.split(",")),
        "seed": seed,
        "last": last,
        "metric": PRIMARY,
        "pictured": "" if whole else tables.ranges(pictured),
        "arms": arms,
    }


def _frames(study: Study, run: str, arm: dict[str, Any]) -> dict[int, str]:
    """Epoch -> picture of a run, for the epochs that the film shows."""
    chosen = chosen_epochs(study.pictured(run), {arm["best"], arm["worst"]}, MOST_PICTURES)
    folders = {epoch: rundir.epoch_folder(study.folder / run, epoch) for epoch in chosen}
    pictures = {epoch: rundir.read(folder, rundir.SAMPLES) for epoch, folder in folders.items()}
    return {epoch: _webp_uri(data) for epoch, data in pictures.items()}


def chosen_epochs(epochs: list[int], wanted: set[int | None], most: int) -> list[int]:
    """At most `most` of the epochs: the first, the last and the wanted ones, the others evenly."""
    if len(epochs) <= most:
        return epochs
    even = max(2, most - len(wanted))
    evenly = {epochs[i * (len(epochs) - 1) // (even - 1)] for i in range(even)}
    return [epoch for epoch in epochs if epoch in evenly | wanted]


def inline(path: Path, name: str) -> str:
    """A figure as a part of the page: its ids apart from others', its text in the page's colour.

    A picture is recompressed; the file beside the page keeps its pixels.
    """
    if path.suffix == ".png":
        return f'<img src="{_webp_uri(path.read_bytes())}" alt="">'
    svg = path.read_text(encoding="utf-8")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = svg.replace(figures.GREY, "currentColor")
    for start in (' id="', 'href="#', "url(#"):
        svg = svg.replace(start, f"{start}{name}-")
    return svg


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _webp_uri(png: bytes) -> str:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.save(buffer, WebPImagePlugin.WebPImageFile.format, quality=85, method=2)
    return _data_uri(buffer.getvalue(), "image/webp")


def _texts(frame: pd.DataFrame, column: str) -> pd.Series:
    """A number of every row as the tables round it, or why there is none."""
    decimals = tables.decimals_of(frame[column])
    absent = frame["status"].map({"ok": "not measured", "diverged": "diverged"})
    shown = frame[column].map(lambda value: tables.rounded(value, decimals))
    return shown.where(frame[column].notna(), absent)
