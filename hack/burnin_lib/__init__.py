"""hack/burnin: random stories on simulated hosts, with a real API server behind a proxy that makes it a bad one.

One installation for one story is the harness of tests/cluster.
"""

import sys

import bootstrap

for _folder in (bootstrap.PROJECT, bootstrap.PROJECT / "tests" / "cluster"):
    if str(_folder) not in sys.path:
        sys.path.append(str(_folder))
