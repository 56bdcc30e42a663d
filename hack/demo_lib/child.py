"""Becomes the given program, which the kernel ends when the demo is gone: `python child.py PARENT-PID PROGRAM ...`

A program of its own and not a `preexec_fn`, which is not safe beside threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2): send this signal to the calling process when its parent is gone

if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent is gone already")
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606
