"""Every table of a report in reading order, and the files that hold them."""

from pathlib import Path

from reports import audit, claims, effects, epochs, tables, tools
from reports.claims import Verdict
from reports.records import Study
from reports.tables import Sheet


def sheets(study: Study, verdicts: list[Verdict]) -> list[Sheet]:
    """All tables, rounded."""
    return [
        *effects.sheets(study),
        *tables.sheets(study),
        claims.sheet(study, verdicts),
        *epochs.sheets(study),
        *tools.sheets(study),
        *audit.sheets(study),
    ]


def write(study: Study, verdicts: list[Verdict], shown: list[Sheet], out: Path) -> list[Path]:
    """Write tables.md, tables.tex and one CSV file per table; returns the paths."""
    out.mkdir(parents=True, exist_ok=True)
    under = tables.paragraphs(map(tables.escape_markdown, tables.caption(study)))
    latex = [tables.to_latex(one, tables.caption(study, one.metrics)) for one in shown]
    frames = {
        "effects": effects.effects_table(study),
        "batch": effects.batch_table(study),
        "fid": tables.fid_table(study),
        "fidelity": tables.fidelity_table(study),
        "losses": tables.losses_table(study),
        "throughput": tables.throughput_table(study),
        "ledger": claims.table(verdicts),
        **epochs.tables(study),
        **tools.frames(study),
        **audit.frames(study),
    }
    files = {
        "tables.md": "\n".join([*map(tables.to_markdown, shown), *under]),
        "tables.tex": "\n".join(["% Needs \\usepackage{booktabs}.\n", *latex]),
        **{f"{name}.csv": tables.to_csv(frame) for name, frame in frames.items() if len(frame)},
    }
    for name, text in files.items():
        (out / name).write_text(text, encoding="utf-8")
    return [out / name for name in files]
