"""`python -m agent.simulation`."""

from __future__ import annotations

import sys

from agent.simulation.main import main

sys.exit(main())
