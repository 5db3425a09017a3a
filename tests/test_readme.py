"""Both READMEs say the same; what they and docs/results.md say of the study is in its report."""

import importlib
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dcgan import cli, rundir

ROOT = Path(__file__).resolve().parents[1]
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?")


def sections(name: str) -> list[str]:
    """A README from heading to heading."""
    return re.split(r"^## .*\n", (ROOT / name).read_text(), flags=re.MULTILINE)


def commands(text: str) -> list[str]:
    """The lines of blocks, without what is said of them; of a sketch of folders, the folders."""
    lines = re.findall(r"^    (\S.*)$", text, re.MULTILINE)
    return [re.split(r"\s{2,}", line)[0] for line in lines if not line.startswith("(")]


def prose(text: str) -> str:
    """What is left without blocks and the link from one language to the other."""
    text = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
    return re.sub(r"\[(English|简体中文)\]\(README\S*\)", "", text)


def code(text: str) -> Counter:
    """Names and short commands within the text."""
    return Counter(" ".join(each.split()) for each in re.findall(r"`([^`]+)`", prose(text)))


def links(text: str) -> Counter:
    return Counter(re.findall(r"\]\(([^)]+)\)", prose(text)))


def figures(text: str) -> Counter:
    """Every number of the text, its links and names left out."""
    bare = re.sub(r"\]\([^)]+\)|`[^`]+`", " ", prose(text))
    return Counter(NUMBER.findall(re.sub(r"(?<=\d)[^\x00-\x7f]", " ", bare)))


ENGLISH, CHINESE = sections("README.md"), sections("README.zh-CN.md")


def test_each_links_to_the_other():
    assert "[简体中文](README.zh-CN.md)" in ENGLISH[0]
    assert "[English](README.md)" in CHINESE[0]
    assert len(ENGLISH) == len(CHINESE) > 6


@pytest.mark.parametrize("what", [commands, code, links, figures])
@pytest.mark.parametrize("number", range(len(ENGLISH)))
def test_both_say_the_same(what, number):
    assert what(CHINESE[number]) == what(ENGLISH[number])


DOCUMENTS = sorted(path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_what_a_document_names_is_there(path):
    text = (ROOT / path).read_text()
    for link in re.findall(r"\]\(([^):]+?)(?:#[^)]*)?\)", text):
        assert (ROOT / path).parent.joinpath(link).exists(), link
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^    |`)make ([a-z-]+)", text, re.MULTILINE)) <= targets
    for package, command in set(re.findall(r"python -m (dcgan|eval|experiments) ([\w-]+)", text)):
        module = importlib.import_module(f"{package}.__main__")
        (group,) = (x for x in vars(module).values() if isinstance(x, cli.Group))
        written_here = f"experiments/studies/{command}.yaml" in text  # how to add a study
        assert command in group.commands or written_here, f"python -m {package} {command}"


REPORT = rundir.PUBLISHED / "ablation-cpu32" / "report"
FOUND = re.compile(r"^#+ What was found\n(.*?)(?:\Z|^## What it costs)", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", ["README.md", "docs/results.md"])
def test_what_is_quoted_is_in_the_report(name):
    found = FOUND.search((ROOT / name).read_text())[1]
    quoted = re.findall(r"^(?:> |- (?=.*fd_cifar)|(?=\|))(.*)$", found, re.MULTILINE)
    assert len(quoted) > 10
    assert set(quoted) <= set((REPORT / "README.md").read_text().splitlines())


@pytest.mark.parametrize("name", ["README.md", "docs/results.md"])
def test_the_seeds_and_the_verdicts_are_counted_as_in_the_report(name):
    text, report = (
        " ".join(path.read_text().split()) for path in (ROOT / name, REPORT / "README.md")
    )
    archives = len([*REPORT.parent.glob("seed-*.zip")])
    assert {*re.findall(r"(\d+) seeds of each", text)} == {str(archives)}
    (counted,) = re.findall(r"Of \d+ confirmatory claims [^.;]*", text)
    assert counted in report


def test_what_is_said_in_our_own_words_follows_from_the_tables():
    last, effects, ledger = (
        pd.read_csv(REPORT / "tables" / f"{name}.csv", index_col=column)
        for name, column in [("last", "norm"), ("effects", "name"), ("ledger", "id")]
    )
    epochs = pd.read_csv(REPORT / "tables" / "epochs-fd_cifar.csv").query("norm == 'none'")
    sets = pd.read_csv(REPORT / "calibration.csv", index_col="images")
    times_untrained = last["fd_cifar"] / sets["fd_cifar"]["untrained"]
    assert (times_untrained["none"] < 0.5).all()
    assert (times_untrained["batch"] > 0.98).all()
    assert sets["fd_cifar"]["gaussian"] < sets["fd_cifar"]["8x8"]
    head = effects.loc["average-pool head, no output BatchNorm"]
    assert 1 / 1.05 < head["ratio_low"] < head["ratio_high"] < 1.05
    assert ledger["low"]["B4-epochs-30"] > 1
    assert ledger["high"]["B4-updates-20"] < 1 < ledger["high"]["B4-updates-28"]
    assert 1 / 1.05 < ledger["low"]["B3"] < ledger["high"]["B3"] < 1.05
    assert 1 / 1.1 < ledger["low"]["B1-gain-128"] < ledger["low"]["B1-gain-512"]
    assert (ledger["estimate"][["B6-choice-d", "B6-choice-g"]] > 1).all()
    assert abs(ledger["estimate"]["B5-literal"]) < 1e-9
    verdicts = {
        "supported": ["B1-128", "B1-512", "B4-story", "B5", "B6", "B6-g"],
        "refuted": ["B4-epochs-30", "B4-start", "B5-share", "P9-control"],
        "equivalent": ["B3", "B4-updates-28", "P2-speed-50", "P2-speed-30", "P9"],
        "inconclusive": ["B1-gain-128", "B1-gain-512", "B2-1", "B4-updates-20", "P2-stability"],
    }
    for word, ids in verdicts.items():
        assert (ledger["verdict"][ids] == word).all(), word
    assert (epochs["fd_cifar_30"] < epochs["fd_cifar_20"]).all()
    assert round(ledger["estimate"]["B5"]) == 5
    assert ledger["low"]["B5"] > 1.3
    assert ledger["estimate"][["B6", "B6-g", "B6-strength"]].abs().max() < 0.3


def test_what_is_said_of_single_runs_follows_from_the_records():
    frame = pd.read_csv(REPORT / "records.csv")
    scores = frame.pivot(
        index=["norm", "head", "batch", "seed"], columns="epoch", values="fd_cifar"
    )
    last, earlier = scores.loc["none", 30], scores.loc["none"].drop(columns=30).min(axis="columns")
    assert ((earlier < last).sum(), len(last)) == (26, 32)

    # With output BatchNorm sizes hardly differ; at 512 it gets worse, at 128 the heads disagree.
    logs = np.log(scores.loc["batch"])
    sizes = logs[30].groupby("batch").mean()
    assert abs(sizes[512] - sizes[128]) < math.log(1.05)
    gains = (logs[30] - logs[1]).groupby(["batch", "head"]).mean()
    assert (gains[512] > 0).all()
    assert gains[128, "conv"] < 0 < gains[128, "avgpool"]

    # Over a run, fd_cifar and G's loss fall together.
    settled = frame[(frame["norm"] == "none") & (frame["epoch"] > 9)].groupby("run")
    ranks = settled[["fd_cifar", "g_loss"]].apply(lambda x: x.corr("spearman").iloc[0, 1])
    assert ranks.mean() > 0.5
    regret = pd.read_csv(REPORT / "tables" / "regret.csv", index_col="norm").loc["none"]
    assert (regret["g_loss"] < regret["random"]).all()

    # The correction for the number of tests.
    ledger = pd.read_csv(REPORT / "tables" / "ledger.csv", index_col="id")
    for name in ("B1-gain-128", "B1-gain-512"):
        assert ledger["p_holm"][name] / ledger["p"][name] == pytest.approx(16, rel=1e-4)
    verdicts = re.search(
        r"the same for (\d+) of the (\d+) claims", (REPORT / "README.md").read_text()
    )
    said = "without seed 0, {} of {} verdicts stay.".format(*verdicts.groups())
    assert said in " ".join((ROOT / "README.md").read_text().split())
