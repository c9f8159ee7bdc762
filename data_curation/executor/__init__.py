"""Running tasks through datatrove: on this machine, as arrays of SLURM jobs, or on Ray.

A task is finished when its marker `completions/<rank>` exists; a second start runs the others only,
whichever executor it has.
"""

from data_curation.executor.run import Runner
from data_curation.executor.watch import Report

__all__ = ["Report", "Runner"]
