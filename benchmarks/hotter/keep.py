"""What ``gace labels run`` has left of the structures of ``sample.py``, as ``figures/hotter.py`` reads it.

    python benchmarks/hotter/keep.py labels

Our labels of published structures are kept without the structures, which are not ours to distribute.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from gace.files import read_json
from gace.structures.io import labels_of, read_structures, write_structures

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("labels", type=Path, help="the folder that --out of gace labels run named")
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    batch = read_json(args.labels / "labels.json")
    structures = read_structures(args.labels / "labelled.xyz")
    hot = [atoms for atoms in structures if atoms.info["config_type"] == "600K"]
    cold = [labels_of(atoms) for atoms in structures if atoms.info["config_type"] == "300K_published"]
    write_structures(args.out / "acac-600K.xyz.gz", hot)
    kept = {
        "file": "AcAc/test_MD_300K.xyz.gz",
        "frames": "::32",
        "units": "eV, eV/Å",
        "settings": batch["settings"],
        "core_seconds_of_all_labels": round(sum(one["price"] for one in batch["structures"]), 1),
        "energies": [round(float(one.energy), 8) for one in cold],
        "forces": [one.forces.round(6).tolist() for one in cold],
    }
    (args.out / "published-300K-relabelled.json").write_text(json.dumps(kept) + "\n")
    print(f"{len(hot)} structures at 600 K, {len(cold)} labels of published ones")


if __name__ == "__main__":
    main()
