"""Build the report of a study: page, tables, figures and records.

    python -m reports --from runs/ablation-small
    python -m reports --from runs/ablation-small --to out
    python -m reports --from wandb ENTITY/PROJECT --to out --study NAME
    python -m reports --from wandb-offline runs/ablation-small/wandb --to out

Reads what the study has committed so far, trains and measures nothing, and writes the same bytes
each time:

    index.html    the page: one self-contained file
    README.md     most of it in Markdown, which GitHub shows
    tables/       every table as LaTeX (booktabs) and CSV
    figures/      every figure as SVG, with --pdf also as PDF; pictures as PNG
    records.csv   every epoch of every run in full precision; records.parquet
    eval_sets.csv, calibration.csv    if there are any

From W&B it is the same report, without what W&B does not have: real and generated images, further
evaluation sets, results of `python -m eval`.
"""

import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dcgan import cli
from dcgan.cli import PATH, BadInput, Result

if TYPE_CHECKING:
    from reports.records import Study

SOURCE = "a study's folder, `wandb ENTITY/PROJECT` or `wandb-offline DIR`"


@click.command("reports", cls=cli.Command, help=__doc__)
@click.option("--from", "kind", metavar="STUDY", required=True, help=SOURCE)
@click.argument("more", metavar="", nargs=-1)
@click.option("--to", metavar="DIR", type=PATH, help="folder of the report; default: STUDY/report")
@click.option("--study", metavar="NAME", help="which study on W&B; default: the only one")
@click.option("--pdf", is_flag=True, help="every figure also as PDF, for LaTeX")
def report(
    kind: str, more: tuple[str, ...], to: Path | None, study: str | None, pdf: bool
) -> Result:
    """Read a study, write all files of its report, say what was found."""
    out = to or Path(kind) / "report"

    # On a terminal something moves before pandas is there.
    from rich.console import Console

    with Console(stderr=True).status("Building the report"):
        from reports import claims, figures, findings, page, records, tables
        from reports.analysis import analyse

        # Whatever can be wrong with the study shows before the first file is written.
        try:
            loaded = analyse(_load([kind, *more], to, study))
            if loaded.frame.empty:
                raise BadInput(f"{loaded.folder}: no epoch has been committed yet")
            verdicts, said = claims.judge(loaded), findings.findings(loaded)
            shown = tables.report(loaded, verdicts)
            drawn = figures.draw(loaded)
            files = records.write(loaded, out)
            files += tables.write(loaded, shown, out / "tables")
            offered = {x.name: x.read_bytes() for x in files if x.suffix in (".csv", ".tex")}
            offered["study.bib"] = page.bibtex(loaded).encode()
            inline = figures.save(drawn, out / "figures", pdf=pdf)
            texts = page.render(loaded, verdicts, said, shown, inline, offered)
            for name, text in zip(("index.html", "README.md"), texts, strict=True):
                (out / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise BadInput(error) from error

    width = min(88, shutil.get_terminal_size((88, 24)).columns)
    for sentence in said.all:
        print(f"\n{textwrap.fill(sentence, width, break_on_hyphens=False)}")
    unfinished = f", {len(loaded.missing)} of them not finished" if loaded.missing else ""
    print(f"\nReport on {len(loaded.plan)} runs{unfinished}: {len(loaded.frame)} committed epochs.")
    print(f"Open {out / 'index.html'} in a browser.")
    print(f"Tables, figures and records are beside it in {out}.")
    done = {"page": out / "index.html", "runs": len(loaded.plan), "findings": [*said.all]}
    return 0, done | {"unfinished": len(loaded.missing), "epochs": len(loaded.frame)}


def main(arguments: list[str] | None = None) -> int:
    return cli.run(report, arguments)


def _load(source: list[str], to: Path | None, name: str | None) -> "Study":
    """The study in a folder, or the one that W&B has; refuses options that do not go together."""
    from reports import from_wandb, records

    given = f"--from {' '.join(source)}"
    match source:
        case [folder] if name:
            raise BadInput(f"--study {name}: {folder} is one study")
        case [folder]:
            return records.load(Path(folder))
        case ["wandb" | "wandb-offline", _] if not to:
            raise BadInput(f"{given}: name the report's folder with --to")
        case ["wandb", place]:
            runs = from_wandb.online(place)
        case ["wandb-offline", place]:
            runs = from_wandb.offline(Path(place))
        case _:
            raise BadInput(f"{given}: not STUDY, wandb ENTITY/PROJECT or wandb-offline DIR")
    return from_wandb.load(runs, place, name)


if __name__ == "__main__":
    sys.exit(main())
