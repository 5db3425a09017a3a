"""What a person sees of a study on screens of all kinds, and in logs."""

import io

import pytest
from rich.console import Console

from experiments import progress

RUN = "norm=none,head=conv,batch=128 seed=0"
MESSAGE = {
    "record": {"status": "ok", "scores": {"fd_cifar": 12.345, "cs_cifar": None, "kd_cifar": 1.0}},
    "timing": {"images_per_second": 812.4},
}


def test_durations_and_numbers_in_one_line():
    durations = [progress.duration(seconds) for seconds in (0, 89.4, 420, 12_000)]
    assert durations == ["0 s", "89 s", "7 min", "3 h 20 min"]
    assert progress.numbers(**MESSAGE) == "fd_cifar 12.3  812 images/s"
    broken = MESSAGE | {"record": {"status": "diverged", "scores": {"fd_cifar": None}}}
    assert progress.numbers(**broken) == "diverged  812 images/s"


def test_time_left_is_of_the_epochs_made_since_the_start(monkeypatch):
    monkeypatch.setattr(progress.time, "monotonic", lambda: 100.0)
    made = {"runs": 2, "epochs": 10, "runs_done": 0, "epochs_before": 4, "began": 0.0}
    assert progress.Progress(epochs_done=4, **made).seconds_left() is None
    assert progress.Progress(epochs_done=6, **made).seconds_left() == 200.0


class Screen(io.StringIO):
    """What a terminal is sent."""

    def isatty(self) -> bool:
        return True


def console_on(file, width=100, height=24, **environ):
    """A console as rich makes it in this environment."""
    environ = {"TERM": "xterm-256color", **environ}
    return Console(file=file, width=width, height=height, highlight=False, _environ=environ)


def shown_on(console, state):
    """What a study of one epoch prints there."""
    with progress.shown(state, console) as show:
        show(RUN, f"epoch 1/2  {progress.numbers(**MESSAGE)}")
    return console.file.getvalue()


@pytest.fixture
def state(monkeypatch):
    """A study whose first epoch has come."""
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    made = progress.Progress(runs=2, epochs=4, runs_done=0, epochs_done=1)
    made.rows[RUN] = progress.Row(1, 2, progress.numbers(**MESSAGE), 30.0)
    return made


@pytest.mark.parametrize(
    ("file", "environ"),
    [
        (io.StringIO, {}),
        (io.StringIO, {"FORCE_COLOR": "1"}),
        (Screen, {"TERM": "dumb"}),
        (Screen, {"JPY_PARENT_PID": "1"}),
    ],
)
def test_what_cannot_move_a_cursor_gets_plain_lines(file, environ, state, monkeypatch):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    text = shown_on(console_on(file(), **environ), state)
    assert text == f"{RUN}  epoch 1/2  fd_cifar 12.3  812 images/s  [1/4 epochs, 0 s left]\n"


def test_a_terminal_gets_a_table_in_which_the_next_epoch_moves(state, monkeypatch):
    now = state.rows[RUN].began + 20
    state.rows["norm=batch seed=0"] = progress.Row(0, 2, began=now - 100)
    state.epoch_seconds = 400.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    text = shown_on(console_on(Screen()), state)
    assert "\x1b" in text
    assert "none,conv,128 seed=0  1/2    20 s of 30 s    fd_cifar 12.3  812 images/s" in text
    assert "batch seed=0          0/2    2 min of 7 min" in text
    assert "0 of 2 runs done" in text


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_wider_than_the_screen_and_each_names_arm_and_seed(width, state):
    state.rows |= {
        f"norm=batch,head=avgpool,batch=512 seed={seed}": state.rows[RUN] for seed in range(3)
    }
    console = console_on(io.StringIO(), width)
    console.print(progress._screen(state, width, 24))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    names = ["batch,avgpool,512", "norm=batch,head=avgpool,batch=512"]
    for seed in range(3):
        assert sum(f"{names[width > 110]} seed={seed}  1/2" in line for line in lines) == 1
    assert sum("fd_cifar 12.3  812 images/s" in line for line in lines) == (4 if width > 72 else 0)
    assert sum("0 of 2 runs done" in line for line in lines) == 1


def test_more_runs_than_lines_are_counted_and_the_foot_stays(state):
    state.rows = {f"norm=none seed={seed}": state.rows[RUN] for seed in range(64)}
    console = console_on(io.StringIO(), 80)
    console.print(progress._screen(state, 80, 24))
    lines = console.file.getvalue().splitlines()
    assert len(lines) < 24
    assert sum("seed=" in line for line in lines) == 16
    assert "and 48 more" in "\n".join(lines)
    assert "0 of 2 runs done" in lines[-1]


@pytest.mark.parametrize(("runs", "epochs"), [(64, 80), (1, 1)])
def test_a_log_names_the_first_and_the_last_epoch_and_is_of_sensible_length(runs, epochs):
    out = io.StringIO()
    state = progress.Progress(runs=runs, epochs=runs * epochs, runs_done=0, epochs_done=0)
    with progress.shown(state, console_on(out)) as show:
        for _ in range(runs * epochs):
            state.epochs_done += 1
            show(RUN, "epoch")
    lines = out.getvalue().splitlines()
    assert f"[1/{runs * epochs} epochs" in lines[0]
    assert f"[{runs * epochs}/{runs * epochs} epochs" in lines[-1]
    assert min(runs * epochs, 100) <= len(lines) <= 202


def test_a_log_names_every_failure(state):
    state.epochs_done, state.epochs = 7, 5120
    state.failed[RUN] = "why"
    text = shown_on(console_on(io.StringIO()), state)
    assert text.startswith(f"{RUN}  epoch 1/2  fd_cifar 12.3  812 images/s  [7/5120 epochs, ")
