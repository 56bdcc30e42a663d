"""`python -I -S relay_start.py SETTINGS`: the relay without site-packages, of which it needs nothing.

A guest that is to move waits for this interpreter: looking for site-packages would cost a quarter of its start.
"""

import os
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))  # after the library

from agent.migration.relay import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
