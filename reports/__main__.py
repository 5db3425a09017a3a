"""Build the report of a study: page, tables, figures and records.

    python -m reports --from runs/ablation-small
    python -m reports --from runs/ablation-small --to out
    python -m reports --from wandb ENTITY/PROJECT --to out --study NAME
    python -m reports --from wandb-offline runs/ablation-small/wandb --to out

Reads what the study has committed so far, trains and measures nothing, and writes the same bytes
each time:

    index.html    the page: one file, which loads nothing
    tables/       every table as Markdown, LaTeX (booktabs) and CSV
    figures/      every figure as SVG, PNG and PDF, pictures as PNG
    records.csv   every epoch of every run in full precision; records.parquet
    banks.csv     scores of further evaluation banks, where there are any

From W&B it is the same report, without what is not there: real and generated images, further
evaluation banks, findings of tools.
"""

import argparse
import shutil
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

from dcgan import commands
from dcgan.commands import BadInput, Result
from dcgan.rundir import Damaged
from reports import claims, contents, figures, findings, mirrors, page, records


def main(words: list[str] | None = None) -> int:
    """Build one report; see dcgan.commands.run."""
    return commands.run(_parser(), words)


def report(arguments: argparse.Namespace) -> Result:
    """Read a study, write all files of its report, say what was found."""
    out = _out(arguments)

    # Whatever can be wrong with the study shows before the first file is written.
    try:
        study = _load(arguments.source, arguments.study)
        if study.frame.empty:
            raise records.NoStudy(f"{arguments.source[-1]}: no epoch has been committed yet")
        verdicts, found = claims.judge(study), findings.findings(study)
        sheets = contents.sheets(study, verdicts)
        drawn = figures.draw(study)
        out.mkdir(parents=True, exist_ok=True)
        files = records.write(study, out) + contents.write(study, verdicts, sheets, out / "tables")
        offered = {
            path.name: path.read_bytes() for path in files if path.suffix in (".csv", ".tex")
        }
        offered["study.bib"] = page.bibtex(study).encode()
        figures.save(drawn, out / "figures")
        inline = {name: (figures.to_svg(figure), text) for name, (figure, text) in drawn.items()}
        text = page.render(study, verdicts, found, sheets, inline, offered)
        (out / "index.html").write_text(text, encoding="utf-8")
    except (records.NoStudy, records.Mixed, claims.BadClaim, Damaged, OSError) as error:
        raise BadInput(error) from error

    _say(found.all)
    unfinished = f", {len(study.missing)} of them not finished" if study.missing else ""
    print(f"\nReport on {len(study.plan)} runs{unfinished}: {len(study.frame)} committed epochs.")
    print(f"Open {out / 'index.html'} in a browser.")
    print(f"Tables, figures and records are beside it in {out}.")
    counts = {"runs": len(study.plan), "unfinished": len(study.missing)}
    return 0, {
        "page": out / "index.html",
        **counts,
        "epochs": len(study.frame),
        "findings": [*found.all],
    }


def _say(sentences: Iterable[str]) -> None:
    width = min(88, shutil.get_terminal_size((88, 24)).columns)
    for sentence in sentences:
        print(f"\n{textwrap.fill(sentence, width, break_on_hyphens=False)}")


def _out(arguments: argparse.Namespace) -> Path:
    """The folder of the report; refuses options that do not go together."""
    source = arguments.source
    if len(source) > 1 and (len(source) > 2 or source[0] not in ("wandb", "wandb-offline")):
        known = "STUDY, wandb ENTITY/PROJECT or wandb-offline DIR"
        raise BadInput(f"--from {' '.join(source)}: not {known}")
    if len(source) > 1 and not arguments.to:
        raise BadInput(f"--from {' '.join(source)}: name the report's folder with --to")
    if len(source) == 1 and arguments.study:
        raise BadInput(f"--study {arguments.study}: {source[0]} is one study")
    return Path(arguments.to or Path(source[0]) / "report")


def _load(source: list[str], name: str | None) -> records.Study:
    """The study in a folder, or the one that W&B has."""
    if len(source) == 1:
        return records.load(Path(source[0]))
    kind, place = source
    found = mirrors.online(place) if kind == "wandb" else mirrors.offline(Path(place))
    return mirrors.load(found, place, name)


def _parser() -> argparse.ArgumentParser:
    parser = commands.Parser("python -m reports", description=__doc__)
    commands.offer_json(parser, report)
    text = "a study's folder, `wandb ENTITY/PROJECT` or `wandb-offline DIR`"
    parser.add_argument(
        "--from", dest="source", metavar="STUDY", nargs="+", required=True, help=text
    )
    usual = "of the report; default: STUDY/report"
    parser.add_argument("--to", metavar="FOLDER", help=usual)
    parser.add_argument("--study", metavar="NAME", help="of W&B's studies; default: the only one")
    return parser


if __name__ == "__main__":
    sys.exit(main())
