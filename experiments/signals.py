"""Ctrl-C and SIGTERM end a command at once, wherever it stands: importing, planning, training.

The handler ends the process and raises nothing: an exception can be lost on its way, in a module
that is being imported, in a destructor, in a library that catches everything. Whatever is written
is written so that the process may end anywhere. Workers leave Ctrl-C to the process that started
them, and end with it.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from types import FrameType

STOPPED = "Stopped. Committed epochs stay: the same command goes on from them.\n"
SIGNALS = (signal.SIGINT, signal.SIGTERM)
END_SECONDS = 5.0  # that a killed worker has to be gone

endings: list[Callable[[], object]] = []  # end what works for this process, its workers apart


def listen() -> None:
    """From now on Ctrl-C ends this process with 130, and SIGTERM with 143."""
    for number in SIGNALS:
        signal.signal(number, _end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # of a command that `call` started


def call(*arguments: str) -> int:
    """Run Python with these words in a process that ends with this one; its exit code.

    Where our stdout goes to stderr, as with --json, its does too.
    """
    sys.stdout.flush()
    stdout = 2 if sys.stdout is sys.stderr else None
    with signals_blocked():  # until the process is known, and can be ended
        command = [sys.executable, *arguments]
        process = subprocess.Popen(command, stdout=stdout, start_new_session=True)
        endings.append(process.kill)
    code = process.wait()
    endings.remove(process.kill)
    return code


def workers(module: str) -> ForkServerContext:
    """The context of workers that have imported a module; start them with `signals_blocked`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module, "torch._dynamo"])  # which every optimiser imports
    return context


@contextmanager
def signals_blocked() -> Iterator[None]:
    """A process that begins meanwhile hears of neither signal; this one does, afterwards at last.

    That goes for the server that forks workers, too. It begins with the first of them, or anew
    after its death, and imports for seconds.
    """
    resource_tracker.ensure_running()  # which unblocks both when it begins
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def end_all(workers: Collection[BaseProcess]) -> None:
    """Kill workers, which may end anywhere, and wait until they are gone."""
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join(END_SECONDS)


def follow() -> None:
    """In a worker: leave Ctrl-C to the process that started it, and end with that, however."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    starter = multiprocessing.parent_process()
    assert starter is not None

    def end_with_it() -> None:
        wait([starter.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()


def _end(number: int, frame: FrameType | None) -> None:
    # A second Ctrl-C changes nothing.
    for ignored in SIGNALS:
        signal.signal(ignored, signal.SIG_IGN)

    # End whatever works for this process, and wait for it.
    end_all(multiprocessing.active_children())
    for end in endings:
        with suppress(Exception):
            end()

    # What was being printed may be cut off; the cursor may be hidden.
    with suppress(RuntimeError, OSError):
        sys.stdout.flush()
    with suppress(OSError):
        out = sys.stdout.fileno()  # with --json that of stderr
        text = f"\x1b[?25h\n{STOPPED}" if os.isatty(out) else STOPPED
        os.write(out, text.encode())
    os._exit(128 + number)
