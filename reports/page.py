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
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
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

PNG = b"\x89PNG"  # its first bytes
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
TITLES = {
    "ablation": "What BatchNorm, the head and the batch size do to DCGAN",
    "followups": "What single changes do to DCGAN",
    "kinds": "Images of one kind and of ten, and DCGAN",
    "precision": "The arithmetic that DCGAN is trained in",
}
ABOUT_CLAIMS = (
    "What the blog post (B), the paper (P) and this study (G) claim. A verdict is on the "
    "hypothesis that was made of a claim before the first run, not on its words: B5, for one, asks "
    "whether quality fluctuates, not whether longer training helps."
)
LITERATURE = yaml.safe_load(Path(__file__).with_name("literature.yaml").read_text(encoding="utf-8"))
TARGETS = ("ablation", "followups", "precision")  # studies that make knows by their name


def render(
    study: Analysis,
    verdicts: list[Verdict],
    said: Findings,
    shown: list[Table],
    drawn: dict[str, tuple[bytes, str]],
    files: dict[str, bytes],
) -> tuple[str, str]:
    """The page, and the same for a reader of Markdown, whose figures lie in figures/.

    `drawn`: name -> (SVG or PNG, caption), `files`: what the page offers.
    """
    named = {table.name: table for table in shown}
    analyses = list(study.analyses)
    sections = {
        name: {"figures": _chosen(drawn, some), "tables": [named[x] for x in _chosen(named, x)]}
        for name, (some, x) in (SECTIONS | {"analyses": (analyses, analyses)}).items()
    }
    order = [name for section in sections.values() for name in section["figures"]]
    both = {
        "title": title(study),
        "scale": scale(study),
        "findings": said,
        "how_sure": findings.how_sure(study),
        "tally": findings.tally(study, verdicts),
        "on_what": on_what(study),
        "sections": sections,
        "opened": OPENED,
        "numbers": {name: i for i, name in enumerate(order, start=1)},
        "command": command(study),
        "limits": limits(study),
        "about_claims": f"{ABOUT_CLAIMS} {findings.tally(study, verdicts)}",
    }
    machines = tables.machine_lines(study)
    html = _template("page.html", escape=True).render(
        **both,
        **LITERATURE,
        cite=cite,
        values=partial(values, study),
        study=study,
        primary=PRIMARY,
        machines=machines,
        missing=tables.missing_lines(study),
        film=filmstrip(study),
        headings=tables.FACTORS,
        figures={name: (inline(data, name), text) for name, (data, text) in drawn.items()},
        identities=tables.identity_lines(study),
        downloads={name: _data_uri(data, "text/plain") for name, data in files.items()},
    )
    saved = {x: (_file_name(x, data), caption) for x, (data, caption) in drawn.items()}
    more = {"about": tables.caption(study) + machines, "bibtex": bibtex(study)}
    markdown = _template("report.md", escape=False).render(**both, **more, figures=saved)
    return html, re.sub(r"\n{3,}", "\n\n", markdown)


def _template(name: str, *, escape: bool) -> Template:
    """A template of this folder; `escape`: for HTML."""
    options = {"autoescape": escape, "trim_blocks": True, "lstrip_blocks": True}
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, undefined=StrictUndefined, **options)
    environment.policies["json.dumps_kwargs"] = {}  # keys in their own order
    environment.filters |= {"markdown": tables.escape_markdown, "rows": tables.to_markdown}
    return environment.get_template(name)


def remove_files(out: Path) -> None:
    """Remove the tables and figures of an earlier report: those that its page names."""
    page = out / "index.html"
    html = page.read_text(encoding="utf-8") if page.exists() else ""
    paths = [f"tables/{name}" for name in re.findall(r'<a download="([\w-]+\.csv)"', html)]
    paths.append("tables/tables.md")  # of earlier versions
    figures = re.findall(r'<figure id="figure-([\w-]+)"', html)
    paths += [f"figures/{name}.{kind}" for name in figures for kind in ("svg", "pdf", "png")]
    for path in paths:
        (out / path).unlink(missing_ok=True)


def _chosen(names: dict[str, Any], patterns: list[str]) -> list[str]:
    """The names that fit the patterns, in the order of these."""
    return list(dict.fromkeys(x for y in patterns for x in fnmatch.filter(names, y)))


def title(study: Study) -> str:
    return TITLES.get(study.info["study"], f"DCGAN: {study.info['study']}")


def scale(study: Analysis) -> str:
    """The second line of the page: how much D has seen, and whether that can say anything."""
    images, scale = study.config.images * int(study.planned.max()), study.info["scale"]
    text = f"Scale {scale}: each D sees {images:,} images."
    if scale in DEMONSTRATIONS:
        text += " A demonstration; the study itself is at cpu32, where it sees 1,500,000."
    return text


def on_what(study: Analysis) -> str:
    """The images, and what the primary metric is."""
    config, identity = study.config, study.identities.get(PRIMARY)
    size = f"{config.resolution}×{config.resolution}"
    text = f"{study.info['data']['name']}, {config.images:,} images at {size}; "
    text += f"{tables.count(study.planned.max(), 'epoch')}, each scored."
    if not identity:
        return text
    return (
        f"{text} {PRIMARY}: Fréchet distance in {identity['network']}, "
        f"{identity['generated']:,} generated against {identity['reference']:,} real images; "
        f"lower is better{'' if 'fid' in study.frame else '; it is not FID'}."
    )


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
    config, blog = study.config, grid.define("ablation", "blog64").settings
    text = (
        f"The networks have {config.width} channels in the layer next to the image, the blog's "
        f"{blog['width']}; images are {config.resolution}×{config.resolution}, the blog's "
        f"{blog['resolution']}×{blog['resolution']}; a run has {study.planned.max()} epochs, the "
        f"blog's {blog['epochs']}. There is one data set, and the learning rate was not tuned "
        f"again for any arm or batch size. {PRIMARY} is computed on the features of a classifier "
        "that was trained on CIFAR-10, and responds only to what tells its ten classes apart."
    )
    gaussian, coarse = calibrated(study, PRIMARY).reindex(["gaussian", "8x8"])
    if gaussian < coarse:
        text += f" It ranks a Gaussian fitted to the pixels ({gaussian:.1f}) above real images "
        text += f"reduced to 8×8 ({coarse:.1f})."
    if "fid" not in study.frame:
        text += " Without Inception's weights there is no FID, and no number here can be compared "
        text += "with a published one."
    return text


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


def inline(data: bytes, name: str) -> str:
    """A figure as a part of the page: its ids apart from others', its text in the page's colour.

    A picture is recompressed; the file beside the page keeps its pixels.
    """
    if data.startswith(PNG):
        return f'<img src="{_webp_uri(data)}" alt="">'
    svg = data.decode()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = svg.replace(figures.GREY, "currentColor")
    for start in (' id="', 'href="#', "url(#"):
        svg = svg.replace(start, f"{start}{name}-")
    return svg


def _file_name(name: str, data: bytes) -> str:
    return f"figures/{name}.{'png' if data.startswith(PNG) else 'svg'}"


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
