"""What hack/test runs: each check with its name, time and, when it fails, its output; then pytest."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import bootstrap
import devcluster
from lab_lib import tools

BIN = bootstrap.VENV / "bin"
PYTHON_SCRIPTS = (
    "hack/devcluster/run",
    *(
        f"hack/{name}"
        for name in ("test", "lock", "generate", "demo", "bench", "burnin", "explore", "fidelity", "hosts", "lab")
    ),
)

TYPED_TESTS = (
    *(f"tests/{name}" for name in ("agent", "cluster", "door", "faults", "model", "simulation")),
    *(f"tests/unit/{name}" for name in ("api", "drivers", "hack", "kubectl_xen", "runtime")),
)

TYPED_PACKAGES = ("tests.conformance",)  # whose modules tests/lab imports by that name

LAB_TESTS = ("tests/lab",)
BRIEF = ("-m", "brief")
"""Those of them that every change passes: what fits into a run of all tests."""

FENCE_PROGRAMS = {"fence_ipmilan": "fence-agents", "ipmitool": "ipmitool", "ipmi_sim": "openipmi"}
"""What tests/unit/power runs: the program, and the Debian package that has it."""


@dataclass(frozen=True)
class Result:
    name: str
    passed: bool
    seconds: float
    output: str = ""

    def __str__(self) -> str:
        return f"{'ok    ' if self.passed else 'FAILED'} {self.name} ({self.seconds:.1f} s)"


def main(arguments: list[str]) -> int:
    """0 only if every check and every test passed."""
    os.chdir(bootstrap.PROJECT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if "-h" in arguments or "--help" in arguments:
        print(
            "usage: hack/test [--checks | --lab | --prepare] [PYTEST ARGUMENT...]   (pytest's: .venv/bin/pytest --help)"
        )
        return 0
    if arguments == ["--prepare"]:
        return _prepare()
    if "--lab" in arguments and (why_not := tools.why_not()):
        print(f"hack/test --lab: {why_not}", file=sys.stderr)
        return 1
    try:
        if arguments and not {"--checks", "--lab"} & set(arguments):
            return _pytest(arguments)
        results = _checks()
        if "--checks" not in arguments:
            results = _tests(results, lab="--lab" in arguments)
    except KeyboardInterrupt:
        return 130
    return 0 if all(result.passed for result in results) else 1


def _prepare() -> int:
    """Install what some tests are made with; 1 when that cannot be done here."""
    missing = _missing_programs()
    try:
        if missing and (os.geteuid() != 0 or shutil.which("apt-get") is None):
            raise tools.LabFailed(f"as root on Debian 12: apt-get install {' '.join(missing)}")
        if missing:
            tools.install(missing)
    except tools.LabFailed as error:
        print(f"hack/test: {error}", file=sys.stderr)
        return 1
    return 0


def _missing_programs() -> list[str]:
    """Their packages."""
    return [package for program, package in FENCE_PROGRAMS.items() if shutil.which(program) is None]


def _checks() -> list[Result]:
    scripts = [path for path in PYTHON_SCRIPTS if (bootstrap.PROJECT / path).exists()]
    return [
        _command("ruff check", [BIN / "ruff", "check", ".", *scripts]),
        _command("ruff format", [BIN / "ruff", "format", "--check", "--quiet", ".", *scripts]),
        _command("mypy --strict", [BIN / "mypy"]),
        _function("mypy --strict of the tests", _test_types_problem),
        _command("import layers", [BIN / "lint-imports", "--no-cache"]),
        _function("lock file is up to date", _lock_problem),
        _command("generated files are up to date", [sys.executable, "hack/generate", "--check"]),
        _function("API server and kubectl", _programs_problem),
    ]


def _report(result: Result) -> Result:
    print(result, flush=True)
    if not result.passed:
        print("\n".join(f"    {line}" for line in result.output.strip().splitlines()), flush=True)
    return result


def _command(name: str, argv: list[object]) -> Result:
    begun = time.monotonic()
    words = [str(word) for word in argv]
    completed = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return _report(Result(name, completed.returncode == 0, time.monotonic() - begun, completed.stdout))


def _function(name: str, check: Callable[[], str]) -> Result:
    begun = time.monotonic()
    problem = check()
    return _report(Result(name, not problem, time.monotonic() - begun, problem))


def _test_types_problem() -> str:
    """Each folder by itself: they have modules of the same name, which find their neighbours without a package."""
    found = []
    whole = [(["-p", package], ".") for package in TYPED_PACKAGES]
    for words, path in [*(([folder], f"{folder}:tests/cluster") for folder in TYPED_TESTS), *whole]:
        environment = dict(os.environ, MYPYPATH=path)  # the harness of tests/cluster serves others, too
        argv = [str(BIN / "mypy"), "--no-error-summary", *words]
        completed = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        if completed.returncode:
            found.append(completed.stdout + completed.stderr)
    return "".join(found)


def _lock_problem() -> str:
    if bootstrap.locked_digest() == bootstrap.dependencies_digest():
        return ""
    return "pyproject.toml's dependencies changed since requirements.lock was made: run hack/lock and commit both"


def _programs_problem() -> str:
    try:
        devcluster.binary(bootstrap.say)
        devcluster.kubectl(bootstrap.say)
    except devcluster.BuildFailed as error:
        return str(error)
    return ""


def _tests(results: list[Result], *, lab: bool) -> list[Result]:
    """All tests; with `lab` brief ones on real hosts, too, after the others: they want the machine for themselves."""
    why_not = tools.why_not() or "hack/test --lab: some of them"
    workers = max(2, min(4, os.cpu_count() or 2))
    suites = [("tests", ["-n", str(workers), "--dist", "loadgroup", *(f"--ignore={path}" for path in LAB_TESTS)])]
    if lab:
        suites.append(("tests on real Xen hosts", [*LAB_TESTS, *BRIEF, "--durations=10"]))
    for name, arguments in suites:
        told = [str(result) for result in results]
        if not lab:
            told.append(f"left out: the tests on real Xen hosts ({why_not}; hack/test {' '.join(LAB_TESTS)}: all)")
        if missing := _missing_programs():
            told.append(f"left out: the tests of fence agents that need {', '.join(missing)} (hack/test --prepare)")
        begun = time.monotonic()
        code = _pytest(arguments, told)
        results = [*results, Result(name, code == 0, time.monotonic() - begun)]
    return results


def _pytest(arguments: list[str], told: list[str] | None = None) -> int:
    """pytest, with the lines `told` before its closing line (see pytest_checks)."""
    environment = dict(os.environ, PATH=devcluster.path_with_kubectl(bootstrap.say))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, ["hack", os.environ.get("PYTHONPATH")]))
    environment["XENTANDEM_CHECKS"] = "\n".join(told or ())
    return subprocess.call([str(BIN / "pytest"), "-p", "pytest_checks", *arguments], env=environment)
