"""What hack/demo is made of: the two manifests become a running VM, and an edit of spec.node moves it.

`main` parses the command line; `setting` starts the controller; `story` is what is shown. `ground` is what it happens
on: simulated hosts (`hosts`, judged by `proof`), or real ones (`lab`, watched by `witness`).
Everything a person would do is done with kubectl, and shown as the command to type.
"""
