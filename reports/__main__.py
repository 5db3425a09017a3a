"""Build the report of a study: page, tables, figures and records.

    python -m reports --from runs/ablation-small
    python -m reports --from runs/ablation-small --to out/
    python -m reports --from wandb ENTITY/PROJECT --to out/ --study ablation-small
    python -m reports --from wandb-offline runs/ablation-small/wandb --to out/

From W&B it is the same report, without what is not there: real and generated images, further
evaluation banks, findings of tools.

Reads what the study has committed so far, trains and measures nothing, and writes the same bytes
each time:

    index.html          the page, one file that needs nothing beside it and loads nothing
    tables/             every table as Markdown, LaTeX (booktabs) and CSV
    figures/            every figure as SVG, PNG and PDF, pictures as PNG
    records.csv         every epoch of every run in full precision, and as records.parquet
    banks.csv           the scores of further evaluation banks, where there are any
"""

import argparse
import sys
import textwrap
from pathlib import Path
from typing import NoReturn

from experiments.journal import Damaged
from reports import claims, contents, figures, findings, mirrors, page, records


def main() -> None:
    """Build one report; leaves with 2 and one line where the input is bad."""
    arguments = _parser().parse_args()
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
        _refuse(str(error))
    except KeyboardInterrupt:
        sys.exit(130)

    for sentence in found.all:
        print(f"\n{textwrap.fill(sentence, 88, break_on_hyphens=False)}")
    unfinished = f", {len(study.missing)} of them not finished" if study.missing else ""
    print(f"\nReport on {len(study.plan)} runs{unfinished}: {len(study.frame)} committed epochs.")
    print(f"Open {out / 'index.html'} in a browser.")
    print(f"Tables, figures and records are beside it in {out}.")


def _out(arguments: argparse.Namespace) -> Path:
    """The folder of the report; refuses options that do not go together."""
    source = arguments.source
    if len(source) > 1 and (len(source) > 2 or source[0] not in ("wandb", "wandb-offline")):
        _refuse(f"--from {' '.join(source)}: not STUDY, wandb ENTITY/PROJECT or wandb-offline DIR")
    if len(source) > 1 and not arguments.to:
        _refuse(f"--from {' '.join(source)}: name the report's folder with --to")
    if len(source) == 1 and arguments.study:
        _refuse(f"--study {arguments.study}: {source[0]} is one study")
    return Path(arguments.to or Path(source[0], "report"))


def _load(source: list[str], name: str | None) -> records.Study:
    """The study in a folder, or the one that W&B has."""
    if len(source) == 1:
        return records.load(Path(source[0]))
    kind, place = source
    found = mirrors.online(place) if kind == "wandb" else mirrors.offline(Path(place))
    return mirrors.load(found, place, name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m reports",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--from",
        dest="source",
        metavar="STUDY",
        nargs="+",
        required=True,
        help="the folder of a study, or `wandb ENTITY/PROJECT`, or `wandb-offline DIR`",
    )
    parser.add_argument("--to", metavar="FOLDER", help="of the report; by default STUDY/report")
    parser.add_argument("--study", metavar="NAME", help="which one, where W&B has several")
    parser.error = _refuse
    return parser


def _refuse(message: str) -> NoReturn:
    print(f"reports: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
