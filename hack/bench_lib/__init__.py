"""What hack/bench is made of: the real controller, as a process of its own, measured from outside.

`stage` starts API server, simulated hosts (`hosts`) and controller; `audit` reads at the API server what the controller
wrote; `process` reads its CPU time and memory; `small` and `scale` are the scenarios; `report` shows what came out.

On real hosts (`lab_main`): `lab_stage` has them with API server and controller, `by_hand` is the script that moves are
measured against, typed on `consoles`; `lab_moves`, `lab_stream` and `lab_life` are the scenarios, `timeline` is the
picture. `stream_source` and `stream_target` run on the hosts themselves.
"""
