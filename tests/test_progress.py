import io

import pytest
from rich.console import Console

from dcgan.config import Config
from experiments import progress
from experiments.grid import Run

RUN = Run(Config(epochs=2), "norm=none,head=conv,batch=128")
MESSAGE = {
    "record": {"status": "ok", "scores": {"fd_cifar": 12.345, "cs_cifar": None, "kd_cifar": 1.0}},
    "timing": {"images_per_second": 812.4},
}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (89.4, "89 s"), (420, "7 min"), (12_000, "3 h 20 min"), (None, "not known yet")],
)
def test_durations_in_words(seconds, words):
    assert progress.duration(seconds) == words


def test_the_latest_numbers_in_one_line():
    assert progress.numbers(MESSAGE) == "fd_cifar 12.3  812 images/s"
    broken = MESSAGE | {"record": {"status": "diverged", "scores": {"fd_cifar": None}}}
    assert progress.numbers(broken) == "diverged  812 images/s"


def test_time_left_is_of_the_epochs_made_since_the_start():
    state = progress.Progress(
        runs=2, epochs=10, runs_done=0, epochs_done=4, epochs_before=4, began=0.0
    )
    assert state.seconds_left() is None
    state.epochs_done, state.epochs_before = 6, 4
    left = state.seconds_left()
    made = left / 4 * 2
    assert left > 0
    assert made == pytest.approx(progress.time.monotonic(), rel=0.01)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_gets_a_table_and_a_file_plain_lines(terminal):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100)
    state = progress.Progress(runs=2, epochs=4, runs_done=0, epochs_done=1)
    state.rows[str(RUN)] = {"epoch": "epoch 1/2", "numbers": progress.numbers(MESSAGE)}
    with progress.shown(state, console) as show:
        show(RUN, f"epoch 1/2  {progress.numbers(MESSAGE)}")
    text = out.getvalue()
    assert "norm=none,head=conv,batch=128 seed=0" in text
    assert "fd_cifar 12.3" in text
    assert ("\x1b" in text) == terminal
    assert ("0 of 2 runs done" in text) == terminal
