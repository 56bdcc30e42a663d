"""What the documents promise is there: links, files, commands, defaults."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.main import Config, load_config
from agent.main import main as agent_main
from kubectl_xen.main import main as plugin_main

PROJECT = Path(__file__).resolve().parents[3]
DOCUMENTS = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md")])
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)(?:#[^)]*)?\)")
SCRIPT = re.compile(r"^\$ (hack/[\w/-]+)", re.MULTILINE)
AGENT_PKI = re.compile(r"^\$ xentandem-agent pki ([a-z-]+)", re.MULTILINE)
PLUGIN = re.compile(r"^\$ kubectl xen ([a-z-]+)", re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_links_lead_somewhere(document: Path) -> None:
    broken = [link for link in LINK.findall(document.read_text()) if not (document.parent / link).exists()]
    assert not broken


def test_commands_that_are_shown_exist() -> None:
    text = "\n".join(document.read_text() for document in DOCUMENTS)
    scripts, certificates, plugin = (set(found.findall(text)) for found in (SCRIPT, AGENT_PKI, PLUGIN))
    assert scripts
    assert not [script for script in scripts if not (PROJECT / script).stat().st_mode & 0o111]
    assert certificates
    for command in certificates:
        assert CliRunner().invoke(agent_main, ["pki", command, "--help"]).exit_code == 0
    assert plugin
    assert plugin <= set(plugin_main.commands)


def test_the_example_configuration_shows_the_defaults() -> None:
    assert load_config(PROJECT / "manifests/agent/agent.yaml") == Config()


def test_nothing_names_a_machine_or_an_index() -> None:
    """The lock file works with whatever index pip is configured for."""
    lock = (PROJECT / "requirements.lock").read_text()
    assert not re.findall(r"https?://|--(?:extra-)?index-url|--find-links", lock)


def test_scripts_run_with_the_standard_library_alone() -> None:
    """Before there is an environment: only what Python brings may be imported."""
    argv = ["python3", "-ISc", "import sys; sys.path.insert(0, 'hack'); import bootstrap, devcluster"]
    completed = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
    assert completed.returncode == 0, completed.stderr
