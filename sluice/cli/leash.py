"""`python -m sluice.cli.leash PARENT COMMAND …`: a `sluice` command that never outlives the process PARENT.

On Linux the kernel is asked to end this process when the one that started it dies, however it dies. Asked
from here, not between fork and exec: code there may not run where the starter has threads, as gRPC's.
The kernel means the thread that started this one: start children from threads that last. Next: `child.py`.
"""

import ctypes
import os
import signal
import sys
from typing import Final

from sluice.cli import main

PR_SET_PDEATHSIG: Final = 1


def tie_to(parent: int) -> None:
    """From now on, end with process `parent`; it may have ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    tie_to(int(sys.argv[1]))
    sys.exit(main.main(sys.argv[2:]))
