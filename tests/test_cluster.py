"""The parts of the Ray engine that need no Ray; whole studies are in test_ray.py."""

from types import SimpleNamespace

import pytest

from experiments import cluster, journal


@pytest.mark.parametrize(
    ("cpus", "gpus", "threads", "share", "runs"),
    [
        (0, 0, 1, 0, 0),  # a head that only leads
        (16, 0, 3, 0, 5),
        (16, 4, 1, 0.25, 16),
        (64, 4, 1, 0.3, 12),  # three on each GPU: no run is cut in two
        (64, 5, 1, 2, 2),
        (64, 0, 1, 0.25, 0),
    ],
)
def test_room_of_a_node(cpus, gpus, threads, share, runs):
    demand = {"num_cpus": threads, "num_gpus": share}
    assert cluster._room({"CPU": cpus, "GPU": gpus}, demand) == runs


def test_epochs_are_told_once_and_only_if_they_are_whole(make_study, tmp_path):
    folder = make_study(tmp_path, epochs=4, factors={"norm": ["none"]}) / "norm=none" / "seed=0"
    job = SimpleNamespace(folder=folder)
    told = [message["record"]["epoch"] for message in cluster._committed_after(1, job)]
    assert told == [2, 3, 4]
    (journal.epoch_folder(folder, 3) / journal.RECORD).write_bytes(b"{}")
    assert [m["record"]["epoch"] for m in cluster._committed_after(1, job)] == [2]
    assert list(cluster._committed_after(4, job)) == []


def test_a_study_that_a_node_does_not_see_differs_from_the_one_here(make_study, tmp_path):
    here = make_study(tmp_path, factors={"norm": ["none"]})
    seen, elsewhere = cluster._look(here), cluster._look(tmp_path / "elsewhere")
    assert len(seen[str(here / "study.json")]) == 12
    unseen = str(tmp_path / "elsewhere" / "study.json")
    assert elsewhere[unseen] == "not readable (No such file or directory)"
