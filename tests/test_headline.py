"""The slices of the headline study: their commands, in order."""

import itertools
import os

import pytest
from conftest import ROOT, capture

SCRIPT = ROOT / "experiments" / "headline.sh"
RECORDER = """#!/bin/sh
shift 2
echo "$@" >> "$LOG"
case $1 in
import) mkdir -p "$RUNS/ablation-cifar32" ;;
export) touch "$4" ;;
bench) mkdir -p "$RUNS/bench" && touch "$RUNS/bench/cuda.json" ;;
ablation | precision) mkdir -p "$RUNS/$1-$3" && touch "$RUNS/$1-$3/study.json"; exit ${CODE:-0} ;;
esac
"""


@pytest.fixture
def headline(tmp_path):
    """Run a slice with a Python that only writes down what it is asked for."""
    python, log = tmp_path / "python", tmp_path / "log"
    python.write_text(RECORDER)
    python.chmod(0o755)

    def run(*words, **settings):
        log.write_text("")
        folders = {"RUNS": tmp_path / "runs", "OUT": tmp_path / "out", "LOG": log}
        env = {"PATH": os.environ["PATH"], "PYTHON": python} | folders | settings
        env = {key: str(value) for key, value in env.items()}
        return capture([SCRIPT, *words], env=env), log.read_text().splitlines()

    return run


def cell_of(line):
    return tuple(word for word in line.split() if "=" in word)


@pytest.mark.parametrize(("jobs", "factors"), [(1, 3), (2, 2), (3, 2), (4, 1), (8, 0)])
def test_a_slice_has_every_cell_of_its_seed_in_groups_of_jobs(headline, tmp_path, jobs, factors):
    done, lines = headline("cifar32", "3", JOBS=jobs, DATA="a.zip")
    assert done.returncode == 0, done.stderr
    levels = [("norm=none", "norm=batch"), ("head=conv", "head=avgpool")]
    levels.append(("batch=128", "batch=512"))
    trained, exported = lines[::2], lines[1::2]
    assert [cell_of(line) for line in trained] == list(itertools.product(*levels[:factors]))
    options = f"--seeds 4 --device cuda --jobs {jobs} --out {tmp_path}/runs --data a.zip"
    assert all(line.startswith(f"ablation --scale cifar32 {options}") for line in trained)

    # What a group has made is safe before the next one starts.
    folder, archive = f"{tmp_path}/runs/ablation-cifar32/", f"{tmp_path}/out/ablation-cifar32.zip"
    assert exported == [f"export {folder} -o {archive}"] * len(trained)


def test_a_slice_that_is_out_of_time_starts_no_group(headline):
    done, lines = headline("cifar32", "0", MINUTES=-1)
    assert (done.returncode, lines) == (0, [])
    assert "the same command goes on" in done.stdout


@pytest.mark.parametrize(("code", "groups", "exports"), [(1, 2, 2), (2, 1, 0), (130, 1, 0)])
def test_a_failed_run_keeps_nobody_elses_records_and_ctrl_c_ends_all(
    headline, code, groups, exports
):
    done, lines = headline("cifar32", "0", JOBS=4, CODE=code)
    assert done.returncode == code
    named = [line.split()[0] for line in lines]
    assert (named.count("ablation"), named.count("export")) == (groups, exports)


def test_a_bare_machine_starts_from_the_records(headline, tmp_path):
    _, first = headline("cifar32", "0", JOBS=8)
    _, again = headline("cifar32", "1", JOBS=8)
    archive = tmp_path / "out" / "ablation-cifar32.zip"
    bare = {"RUNS": tmp_path / "b", "OUT": tmp_path / "c", "FROM": tmp_path / "out"}
    _, (imported, *elsewhere) = headline("cifar32", "1", JOBS=8, **bare)
    assert imported == f"import {archive} --out {tmp_path}/b"
    for lines in (first, again, elsewhere):
        assert [line.split()[0] for line in lines] == ["ablation", "export"]


@pytest.mark.parametrize("words", ["", "cifar", "cifar32", "blog64 -1", "precision x"])
def test_wrong_words_are_answered_with_the_slices(headline, tmp_path, words):
    done, lines = headline(*words.split())
    assert (done.returncode, lines) == (2, [])
    slices = [line.split()[1] for line in done.stderr.splitlines()]
    assert slices == ["bench", "cifar32", "blog64", "precision", "dry"]
    assert not (tmp_path / "out").exists()
