"""A transport for `xl migrate`, as socat would be: carries standard input and output over a Unix socket.

python stream_relay.py SOCKET
"""

from __future__ import annotations

import os
import select
import socket
import sys


def main(path: str) -> int:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    reading = True
    waiting: list[socket.socket | int]
    while True:
        waiting = [connection, 0] if reading else [connection]
        ready, _, _ = select.select(waiting, [], [])
        if 0 in ready:
            data = os.read(0, 65536)
            if data:
                connection.sendall(data)
            else:
                reading = False
                connection.shutdown(socket.SHUT_WR)
        if connection in ready:
            data = connection.recv(65536)
            if not data:
                return 0
            os.write(1, data)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1]))
    except ConnectionError:
        sys.exit(1)
