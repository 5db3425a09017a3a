"""`python -m experiments ablation` in a process that is forked from one with everything imported.

The server that forks is multiprocessing's own. The workers of a command are forked from it in turn,
and not from a server of their own, which would import everything again.
"""

import multiprocessing
import os
import signal
import sys
import traceback

IMPORTED = ["experiments.__main__", "experiments.study", "experiments.launch", "torch._dynamo"]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(IMPORTED)


def give(
    words: list[str], log: str, environ: dict[str, str], report: bool, patience: float
) -> None:
    """Give the command in a session of its own, its output in <log>.out and <log>.err.

    `report`: whether it builds one; `patience`: seconds that a run waits for W&B.
    """
    from experiments import __main__ as command
    from experiments import signals, study, tracking

    code = 70
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        for number, name in (1, "out"), (2, "err"):
            file = os.open(f"{log}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
        for name in [name for name in os.environ if name.startswith(("WANDB_", "INCEPTION"))]:
            del os.environ[name]
        os.environ.update(environ)
        sys.argv = ["experiments", "ablation", *words]
        signals.workers = lambda module: multiprocessing.get_context("fork")
        if not report:
            study.report = lambda folder: 0
        tracking.PATIENCE = patience
        signals.listen()
        code = command.main()
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
