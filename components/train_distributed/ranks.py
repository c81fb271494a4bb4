"""torchrun with an exit code and an end: starts a machine's ranks, and says how they ended.

    python -m headway.components.train_distributed.ranks --standalone --nproc-per-node 2 --module ... JOB.json

Takes torchrun's own arguments. What it adds:

    exit code 143      after SIGTERM, or when the ranks stopped as asked: torchrun's is 1 whatever happened
    no orphans         it ends, and its ranks with it, when the process that started it is gone
    no second story    the failing rank's own error stands in TORCHELASTIC_ERROR_FILE and on the log, once
"""

import os
import signal
import sys
import threading
import time

from headway.components.train_distributed.job import STOPPED


def main() -> int:
    """Run the ranks to their end; the exit code."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    _end_with_parent()
    try:
        run.main()
    except SignalException:
        return STOPPED
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        # A rank that torchrun itself ended, because another had left as asked, has a code of its own.
        if codes <= {STOPPED, -signal.SIGTERM}:
            return STOPPED
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _end_with_parent() -> None:
    """Leave when the process that started this one is gone, even when it was killed."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
