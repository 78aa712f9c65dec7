"""A process that a run happens in, where the run may be killed: milliseconds, where a new interpreter takes seconds."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable

from tqdm import tqdm


def fork(work: Callable[[], int], output: int) -> int:
    """The id of a child that does this, with its two outputs in a file, and ends with the code that `work` gives."""
    pid = os.fork()
    if pid == 0:
        code = 1  # a child must never run on as its parent
        try:
            # tqdm's lock is a semaphore that all children share: one killed as it prints would hold up all others.
            tqdm.set_lock(threading.RLock())
            os.dup2(output, 1)
            os.dup2(output, 2)
            code = work()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except BaseException:  # noqa: BLE001 - see above
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return pid
