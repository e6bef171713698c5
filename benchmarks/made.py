"""The potentials that are timed: presets with random parameters, or bundles."""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

import torch
from ase import Atoms
from workloads import CUTOFF, elements_of

import gace
from gace.potential.graph_ace import GraphACE
from gace.structures.neighbours import build_graph


def potential_of(args: argparse.Namespace, name: str, atoms: Atoms) -> gace.Potential:
    """The potential that ``--model`` names, for the elements of a workload; in double precision."""
    if Path(args.model).is_dir():
        return gace.load(args.model)
    if args.model.startswith("linear-"):
        # here, since what one kind of model needs is not to be in the memory of the other
        from gace.linear.config import PRESETS as LINEAR
        from gace.linear.model import LinearACE

        if args.model not in LINEAR:
            sys.exit(f"error: no preset '{args.model}': there are {', '.join(LINEAR)}")
        cutoff, elements = args.cutoff or CUTOFF, elements_of(name)
        linear = LinearACE(**{**LINEAR[args.model], "elements": elements, "cutoff": cutoff})
        linear.standardise([build_graph([atoms[:64]], elements, cutoff)])
        torch.nn.init.normal_(linear.coefficients, std=1e-3, generator=torch.Generator().manual_seed(0))
        return gace.Potential([linear], isolated_atom_energies=dict.fromkeys(elements, 0.0))
    cutoff, elements = args.cutoff or CUTOFF, elements_of(name)
    graph = build_graph([atoms], elements, cutoff)
    inside = (graph.edge_vector.norm(dim=-1) <= cutoff).sum(1).double()
    # trained potentials have inner cutoffs; how long they are does not matter here
    pairs = itertools.combinations_with_replacement(elements, 2)
    model = GraphACE.from_preset(
        args.model,
        elements=elements,
        cutoff=cutoff,
        mean_neighbours=float(inside.mean()),
        inner_cutoffs={f"{a}-{b}": 0.5 for a, b in pairs},
        seed=0,
    )
    # a bundle that is loaded has its scales: they are not to be in the memory that is measured
    model.calibrate(build_graph([atoms[:2]], elements, cutoff))
    return gace.Potential([model], isolated_atom_energies=dict.fromkeys(elements, 0.0))
