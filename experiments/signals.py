"""Ctrl-C and SIGTERM end a command at once, wherever it stands: importing, planning, training.

The handler ends the process and raises nothing: an exception can be lost on its way, in a module
that is being imported, in a destructor, in a library that catches everything. Whatever is written
is written so that the process may end anywhere.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
from contextlib import suppress
from types import FrameType

WORDS = "Stopped. Committed epochs stay: the same command goes on from them.\n"
GRACE = 5.0  # seconds that the workers have to end

_commands: list[subprocess.Popen] = []  # at work for this process
_held: list[int] | None = None  # the signals that come while a command is being started


def listen() -> None:
    """From now on Ctrl-C ends this process with 130, and SIGTERM with 143."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)


def call(command: list[str]) -> int:
    """Run a command that ends with this process; its exit code."""
    global _held
    held = _held = []
    try:
        process = subprocess.Popen(command, start_new_session=True)  # Ctrl-C is for this one
        _commands.append(process)
    finally:
        _held = None
        for number in held:  # now that the command is known, and can be ended
            _end(number, None)
    code = process.wait()
    _commands.remove(process)
    return code


def _end(number: int, frame: FrameType | None) -> None:
    if _held is not None:
        _held.append(number)
        return

    # A second Ctrl-C changes nothing.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)

    # End whatever works for this process, and wait for it.
    for command in _commands:
        command.kill()
    workers = multiprocessing.active_children()
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join(GRACE / len(workers))
        worker.kill()

    # What was being printed may be cut off; the cursor may be hidden.
    with suppress(RuntimeError, OSError):
        sys.stdout.flush()
    with suppress(OSError):
        words = f"\x1b[?25h\n{WORDS}" if os.isatty(1) else WORDS
        os.write(1, words.encode())
    os._exit(128 + number)
