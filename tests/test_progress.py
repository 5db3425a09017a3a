"""What a person sees of a study on a terminal, and in logs."""

import io

import pytest

from dcgan import cli
from experiments import progress
from experiments.progress import Progress

RUN = "norm=none,head=conv,batch=128 seed=0"
NUMBERS = "fd_cifar 12.3  812 images/s"


def test_durations_and_numbers_in_one_line():
    durations = [cli.duration(seconds) for seconds in (0, 89.4, 420, 12_000)]
    assert durations == ["0 s", "89 s", "7 min", "3 h 20 min"]
    record = {"status": "ok", "scores": {"fd_cifar": 12.345, "cs_cifar": None, "kd_cifar": 1.0}}
    timing = {"images_per_second": 812.4}
    assert progress.numbers(record, timing) == NUMBERS
    broken = {"status": "diverged", "scores": {"fd_cifar": None}}
    assert progress.numbers(broken, timing) == "diverged  812 images/s"


def test_time_left_is_of_the_epochs_made_since_the_start(monkeypatch):
    clock = iter([0.0, 50.0, 100.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    shown = Progress(progress.console(file=io.StringIO()), epochs=10, done=4)
    assert shown.seconds_left() is None
    shown.done = 6
    assert shown.seconds_left() == 200.0


class Screen(io.StringIO):
    """What a terminal is sent."""

    def isatty(self) -> bool:
        return True


def shown_on(file, **environ):
    """What a study of one epoch prints there."""
    environ = {"TERM": "xterm-256color", **environ}
    shown = Progress(progress.console(file=file, width=80, height=24, _environ=environ), 4, 0)
    with shown.rows:
        shown.begin(RUN, 0, 2)
        shown.commit(RUN, 1, 2, NUMBERS)
    return file.getvalue()


PIPES = [(io.StringIO, {}), (io.StringIO, {"FORCE_COLOR": "1"})]
DUMB = [(Screen, {"TERM": "dumb"}), (Screen, {"JPY_PARENT_PID": "1"})]


@pytest.mark.parametrize(("file", "environ"), PIPES + DUMB)
def test_what_cannot_move_a_cursor_gets_plain_lines(file, environ, monkeypatch):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    line = f"{RUN}  epoch 1/2  {NUMBERS}  [1/4 epochs, 0 s left]\n"
    assert shown_on(file(), **environ) == line


def test_a_terminal_gets_a_row_for_all_and_for_each_run_at_work(monkeypatch):
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    text = shown_on(Screen())
    assert "\x1b" in text
    for part in ("1/4", "0 s left", "none,conv,128 seed=0", "1/2", NUMBERS):
        assert part in text


def test_a_log_names_every_failure():
    out = io.StringIO()
    shown = Progress(progress.console(file=out), 5120, 7)
    shown.begin(RUN, 1, 80)
    shown.end(RUN, "why")
    assert out.getvalue() == f"{RUN}  failed: why  [7/5120 epochs, time left not known yet]\n"
