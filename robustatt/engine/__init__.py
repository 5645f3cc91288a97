"""Who computes which Cell: this process, processes of this machine, or the workers of a Ray cluster.

`sweep` runs a plan; `scheduler` decides who is next; an `Executor` computes Cells; a `Worker` is what computes one.
"""
