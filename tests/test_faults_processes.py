"""Processes are stopped, killed, doubled, moved to other machines: see faults.processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from faults import Row, processes

from experiments import signals

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


@pytest.mark.parametrize("row", processes.ROWS, ids=lambda row: row.trial.__name__)
def test_a_row_of_the_table_holds(row: Row, tmp_path: Path) -> None:
    row.make(tmp_path)


def test_a_signal_while_a_command_is_being_started_ends_it_too(tmp_path: Path) -> None:
    code = (
        "import os, signal, subprocess, sys\n"
        "from experiments import signals\n"
        "class Struck(subprocess.Popen):\n"
        "    def __init__(self, *rest, **more):\n"
        "        super().__init__(*rest, **more)\n"
        "        print(self.pid, flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "subprocess.Popen = Struck\n"
        "signals.listen()\n"
        "signals.call('-c', 'import time; time.sleep(600)')\n"
    )
    command, options = [sys.executable, "-c", code], {"stdout": subprocess.PIPE, "text": True}
    done = subprocess.run(command, cwd=ROOT, timeout=60, **options)
    assert done.returncode == 143
    child, words = done.stdout.split("\n", 1)
    assert words == signals.STOPPED
    processes.until(lambda: not Path(f"/proc/{child}/cmdline").exists(), "the command's end")


def test_what_begins_with_signals_blocked_is_not_stopped_and_its_starter_is_afterwards() -> None:
    heard = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append("starter"))
    try:
        with signals.signals_blocked():
            child = subprocess.Popen([sys.executable, "-c", "input(); print('whole')"], text=True,
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
            os.kill(os.getpid(), signal.SIGINT)
            child.send_signal(signal.SIGINT)
        processes.until(lambda: heard, "the signal, which any thread may take")
        assert heard == ["starter"]
        assert child.communicate("go on\n", timeout=60)[0] == "whole\n"
    finally:
        signal.signal(signal.SIGINT, before)
