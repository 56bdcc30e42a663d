"""The controller as a process of the demo, with the options that its Deployment would give it."""

from __future__ import annotations

import os
from pathlib import Path

import bootstrap

from demo_lib.kube import SYSTEM
from demo_lib.processes import Child, Processes


def controller(processes: Processes, kubeconfig: Path, tls: Path) -> Child:
    """`tls` holds tls.crt, tls.key and ca.crt. A free port for metrics would help nobody here: they are not served."""
    argv = [
        str(bootstrap.VENV / "bin" / "xentandem-controller"),
        "--kubeconfig", str(kubeconfig), "--namespace", SYSTEM,
        "--tls-cert", str(tls / "tls.crt"), "--tls-key", str(tls / "tls.key"), "--tls-ca", str(tls / "ca.crt"),
        "--metrics-address", "0", "--log-format", "console",
    ]  # fmt: skip
    return processes.start("controller", argv, dict(os.environ, NO_COLOR="1"))
