"""Which cipher the relay's stream has: the one that is quick on its processor."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agent.migration.relay_start import HERE, has_aes
from agent.pki import create_authority, issue_agent
from agent.tls import server_context

CONFIGURATION = Path(HERE) / "openssl-chacha20.cnf"


@pytest.mark.parametrize(
    ("text", "aes"),
    [
        ("processor\t: 0\nflags\t\t: fpu sse2 svm\n", False),
        ("processor\t: 0\nflags\t\t: fpu sse2 aes avx\n", True),
        ("flags\t\t: fpu\nbugs\t\t: aes\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd aes\n", True),
        ("nothing of the kind\n", True),
    ],
)
def test_aes_is_told_by_the_processor(tmp_path: Path, text: str, aes: bool) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert has_aes(str(tmp_path / "cpuinfo")) is aes


def test_what_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    assert has_aes(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(("configured", "cipher"), [(True, "TLS_CHACHA20_POLY1305_SHA256"), (False, "TLS_AES_256_GCM")])
def test_the_configuration_chooses(tmp_path: Path, configured: bool, cipher: str) -> None:
    files = issue_agent(create_authority(tmp_path / "ca"), "mk1", tmp_path / "mk1")
    found: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with server_context(files).wrap_socket(connection, server_side=True) as sock:
                found.append(str((sock.cipher() or ("none",))[0]))
                assert sock.version() == "TLSv1.3"
                with contextlib.suppress(OSError):
                    sock.recv(1)

        serving = threading.Thread(target=serve)
        serving.start()
        code = (
            "import socket, sys; from agent.migration.relay_line import client_context;"
            "client_context(*sys.argv[2:]).wrap_socket(socket.create_connection(('127.0.0.1', int(sys.argv[1]))))"
        )
        paths = [str(files.certificate), str(files.key), str(files.authority)]
        environment = {**os.environ, **({"OPENSSL_CONF": str(CONFIGURATION)} if configured else {})}
        port = str(listener.getsockname()[1])
        subprocess.run([sys.executable, "-c", code, port, *paths], check=True, env=environment)
        serving.join(20)
    assert found[0].startswith(cipher)
