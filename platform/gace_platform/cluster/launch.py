"""Start a command that dies with the thread that started it.

Run as ``python -I -S launch.py PARENT_PID COMMAND …``. On Linux the kernel is asked to kill this
process when its parent goes (``PR_SET_PDEATHSIG``), then the command takes its place. Doing so in
a small program of its own is safe in a parent with many threads, where ``preexec_fn`` is not.
"""

from __future__ import annotations

import os
import signal
import sys


def die_with_parent(parent: int) -> None:
    """Ask the kernel for SIGKILL when the parent ends; exit at once if it has ended already."""
    if sys.platform.startswith("linux"):
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(143)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    try:
        os.execvp(sys.argv[2], sys.argv[2:])
    except OSError as error:
        sys.stderr.write(f"cannot start {sys.argv[2]}: {error.strerror}\n")
        sys.exit(127)
