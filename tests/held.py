"""The command, whose training is held at a chosen moment: ``python held.py MOMENT NUMBER DEAF WORD...``.

MOMENT is what is counted: ``step`` (a step was taken), ``part`` (readings were written, their checkpoint not yet) or
``checkpoint`` (one was written). At the NUMBER-th of a shard the process that trains it leaves a file ``held-PID`` in
the current folder and waits until it is told to stop, or with DEAF 1 for ever. So tests meet a run at one moment on a
busy machine and on an idle one. Worker processes import this file too, which is how they come to be held.
"""

import os
import sys
import time
from pathlib import Path

MOMENT, NUMBER, DEAF, *WORDS = sys.argv[1:]
METHODS = {"step": "_interrupted", "part": "_flush", "checkpoint": "_checkpoint"}


def hold(run):
    Path(f"held-{os.getpid()}").touch()
    while DEAF == "1" or not run.stop():
        time.sleep(0.01)


def holding(method):
    def counted(run, *arguments):
        run.met = getattr(run, "met", 0) + 1
        now = run.met == int(NUMBER)
        if now and MOMENT == "step":  # ahead of the step's question whether to stop
            hold(run)
        answer = method(run, *arguments)
        if now and MOMENT != "step":
            hold(run)
        return answer

    return counted


if __name__ == "__main__":
    from onsphere.lab import cli

    run_command = cli.run_command

    def announced(arguments):  # Python's own answer to Ctrl-C has been replaced by now
        print("ready", flush=True)
        return run_command(arguments)

    cli.run_command = announced
    cli.main(WORDS)
elif __name__ == "__mp_main__":  # a worker process
    from onsphere.lab.population.shard import _ShardRun

    setattr(_ShardRun, METHODS[MOMENT], holding(getattr(_ShardRun, METHODS[MOMENT])))
