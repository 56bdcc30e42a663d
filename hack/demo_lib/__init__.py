"""What hack/demo is made of: the two manifests become a running VM, and an edit of spec.node moves it.

`main` parses the command line; `setting` starts and ends the processes; `story` is what is shown; `proof` judges it.
Everything a person would do is done with kubectl, and shown as the command to type.
"""
