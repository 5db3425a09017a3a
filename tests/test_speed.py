"""What a bench's record says: sentences, aims, tables, figures; and those that are published."""

import copy
import re
from pathlib import Path

import pytest

from dcgan import rundir
from experiments import __main__ as experiments
from reports import __main__ as reports
from reports import speed, tables

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "reports" / "published" / "bench"
RECORDS = sorted(PUBLISHED.glob("*.json"))


def training(networks: str, speed: float, ratio: float | None = None) -> dict:
    plain = None if ratio is None else [128 / speed * ratio] * 3
    return {
        "networks": networks,
        "images": 128,
        "images/s": speed,
        "GFLOP an image": 0.1,
        "of a matrix product": 0.5,
        "plain loop images/s": ratio and speed / ratio,
        "ratio": ratio,
        "lowest": ratio and ratio - 0.1,
        "highest": ratio and ratio + 0.2,
        "seconds": [128 / speed] * 3,
        "plain seconds": plain,
    }


def ways(key: str, names: dict[str, float], **more) -> list[dict]:
    """Rows of ways to do one thing, each with its ratio to the first."""
    return [
        {key: name, "ratio": ratio, "lowest": ratio, "highest": ratio, **more, "seconds": [ratio]}
        for name, ratio in names.items()
    ]


RECORD = {
    "commit": "abc1234",
    "hardware": {
        "device": "cpu",
        "processor": "Example CPU (R) @ 2.00GHz",
        "cores": 2,
        "jobs": 1,
        "threads": 1,
    },
    "versions": {"python": "3.11.7", "torch": "2.15.0"},
    "quick": False,
    "parts": {
        "training": [
            training("small", 1234.5),
            training("cifar32", 99.94),
            training("blog64", 20.0, 1.5),
            training("paper, 64x64", 70.0, 1.25),
        ],
        "jobs": [
            {**row, "images/s": 2000 / row["ratio"], "seconds an image": [1 / 2000, 1 / 1900]}
            for row in ways("processes x threads", {"2 x 1": 1.0, "1 x 2": 1.25})
        ],
        "scoring": [
            {**row, "images/s": 1800 / row["ratio"]}
            for row in ways("scored by", {"ours": 1.0, "torchmetrics": 3.0, "torch-fidelity": 0.9})
        ],
        "frechet": [
            {"D": size, "N": 5000, "s": 2.0 * row["ratio"], "error": 3e-16, **row}
            for size in (64, 2048)
            for row in ways("computed by", {"ours": 1.0, "torch-fidelity": 2.5, "sqrtm": 9.0})
        ],
        "epoch": [
            {"piece": piece, "s": 10 * share, "share": share}
            for piece, share in {
                "data and noise": 0.01,
                "G": 0.42,
                "D": 0.4,
                "losses": 0.0,
                "scoring": 0.16,
                "commit": 0.005,
                "W&B": 0.001,
                "other": 0.004,
                "epoch": 1.0,
            }.items()
        ],
        "start": [
            {"what": "first epoch", "unit": "s", "median": 4.25, "measured": [4.0, 4.25, 5.0]},
            {"what": "worker at small", "unit": "MB", "median": 612.0, "measured": [612.0]},
        ],
        "growth": [
            {
                "factor": factor,
                "level": level,
                "images/s": 1000.0 / level,
                "state MB": 6.5,
                "peak MB": 500.0 + level,
                "measured": [1000.0 / level],
            }
            for factor in ("width", "jobs")
            for level in (1, 2)
        ],
    },
}


@pytest.fixture
def path(tmp_path):
    rundir.replace(tmp_path / "cpu.json", rundir.seal(RECORD))
    return tmp_path / "cpu.json"


def test_sentences_are_the_records_figures():
    assert speed.sentences(RECORD) == [
        "One thread of Example CPU (R) @ 2.00GHz trains, in images a second, 1,234 at small, "
        "99.9 at cifar32 and 20.0 at blog64.",
        "That is, beside the plain loop of the tutorials, which takes turns with it, 1.50 (1.40 to "
        "1.70) times as many on the blog's networks and 1.25 (1.15 to 1.45) times as many on the "
        "paper's.",
        "Two processes of one thread train 1.25 (1.25 to 1.25) times as many images as one of two.",
        "Scoring takes 16.0 % of an epoch at small, the commit 0.5 % and W&B 0.1 %.",
        "1,800 images are scored a second, 3.00 (3.00 to 3.00) times torchmetrics' and 0.90 (0.90 "
        "to 0.90) times torch-fidelity's own loop.",
        "The Fréchet distance of 2,048 features takes 2.0 s with a relative error of 3e-16; "
        "torch-fidelity's takes 2.50 times as long, with 3e-16.",
        "With 64 features it takes 2.50 times as long as ours.",
        "A first epoch is there after 4.2 s, and a worker at small peaks at 612 MB.",
    ]


def test_an_aim_is_reached_at_its_bound_and_not_beyond():
    found = {row[0]: row[1:] for row in speed.aims(RECORD).rows}
    assert [row[2] for row in found.values()] == ["yes", "no", "yes", "yes", "no", "yes", "yes"]
    assert found["training, the blog's networks, times the plain loop"][:2] == [
        "at least 1.5",
        "1.50",
    ]
    assert found["scoring, of an epoch at small"][:2] == ["at most 15 %", "16.0 %"]
    assert found["peak memory of a worker at small"][:2] == ["at most 1.5 GB", "0.612 GB"]


def test_of_what_was_not_measured_nothing_is_said(tmp_path):
    record = {**RECORD, "parts": {"growth": RECORD["parts"]["growth"]}}
    assert speed.sentences(record) == []
    assert speed.aims(record) is None
    assert [sheet.name for sheet in speed.sheets(record)] == ["growth"]
    assert [*speed.draw(record)] == ["growth"]


def test_every_part_has_a_figure_a_table_and_a_csv_with_all_digits(path, tmp_path):
    _, paths = speed.write(path, tmp_path / "report")
    names = {made.relative_to(tmp_path / "report").as_posix() for made in paths}
    for part in RECORD["parts"]:
        assert {f"tables/{part}.csv", f"figures/{part}.svg", f"figures/{part}.png"} <= names
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("<figure") == len(RECORD["parts"])
    assert not re.search(r'(?:src|href)="http|url\(http', page)
    assert "1234.5" in (tmp_path / "report" / "tables" / "training.csv").read_text()


def test_the_same_record_gives_the_same_bytes(path, tmp_path, capsys):
    for name in ("a", "b"):
        assert reports.main(["--from", str(path), "--to", str(tmp_path / name)]) == 0
    assert "in images a second, 1,234 at small" in " ".join(capsys.readouterr().out.split())
    for made in (tmp_path / "a").rglob("*.*"):
        twin = tmp_path / "b" / made.relative_to(tmp_path / "a")
        assert made.read_bytes() == twin.read_bytes(), made


def test_a_record_that_was_changed_is_refused(path, tmp_path, capsys):
    path.write_text(path.read_text().replace("1234.5", "2234.5"))
    with pytest.raises(SystemExit, match="2"):
        reports.main(["--from", str(path), "--to", str(tmp_path / "report")])
    assert capsys.readouterr().err == f"reports: {path}: is not as it was written\n"
    assert not (tmp_path / "report").exists()


def test_publishing_names_a_record_by_its_processor(path, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(experiments, "PUBLISHED", tmp_path / "published")
    monkeypatch.setattr(experiments, "_report", lambda target, quiet: 0)
    assert experiments.main(["publish", str(path)]) == 0
    made = tmp_path / "published" / "bench" / "example-cpu-r-2-00ghz.json"
    assert made.read_bytes() == path.read_bytes()

    quick = copy.deepcopy(RECORD) | {"quick": True}
    rundir.replace(path, rundir.seal(quick))
    with pytest.raises(SystemExit, match="2"):
        experiments.main(["publish", str(path)])
    assert "comes from --quick, whose figures say nothing" in capsys.readouterr().err


# --- What is published ----------------------------------------------------------------------------


def test_a_bench_is_published():
    assert RECORDS


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.stem)
def test_a_published_bench_rebuilds_byte_for_byte_and_the_readme_says_it(record, tmp_path):
    said, paths = speed.write(record, tmp_path)
    built = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in paths}
    kept = {
        path.relative_to(record.with_suffix("")).as_posix(): path.read_bytes()
        for path in record.with_suffix("").rglob("*")
        if path.is_file()
    }
    assert {"index.html", "tables/tables.md", "figures/training.png"} <= kept.keys()
    assert [name for name in kept if kept[name] != built[name]] == []
    assert set(built) - set(kept) <= {name for name in built if name.startswith("figures/")}

    readme = " ".join((ROOT / "README.md").read_text().split())
    for sentence in said:
        assert sentence in readme
    for line in tables.to_markdown(speed.aims(speed.load(record))).splitlines():
        if line.startswith("|"):
            assert " ".join(line.split()) in readme
