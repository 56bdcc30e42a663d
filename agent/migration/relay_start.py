"""`python -I -S relay_start.py SETTINGS`: the relay without site-packages, of which it needs nothing.

A guest that is to move waits for this interpreter: looking for site-packages would cost a quarter of its start.
"""

import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.path.dirname(os.path.dirname(HERE)))  # after the library


def has_aes(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Whether the processor encrypts AES by itself. True where that cannot be read: OpenSSL's own order then."""
    try:
        with open(cpuinfo, encoding="utf-8") as file:
            found = re.search(r"^(?:flags|Features)\s*:(.*)$", file.read(), re.MULTILINE)
    except OSError:
        return True
    return found is None or "aes" in found[1].split()


def choose_cipher() -> None:
    """For this process and what it starts, before it imports `ssl`: Python 3.11 has no call for TLS 1.3's ciphers."""
    if not has_aes():
        os.environ["OPENSSL_CONF"] = os.path.join(HERE, "openssl-chacha20.cnf")


if __name__ == "__main__":
    choose_cipher()
    from agent.migration.relay import main

    sys.exit(main(sys.argv[1:]))
