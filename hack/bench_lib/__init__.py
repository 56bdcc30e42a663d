"""What hack/bench is made of: the real controller, as a process of its own, measured from outside.

`stage` starts API server, simulated hosts (`hosts`) and controller; `audit` reads at the API server what the controller
wrote; `process` reads its CPU time and memory; `small` and `scale` are the scenarios; `report` shows what came out.
"""
