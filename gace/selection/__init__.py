"""Which structures are worth a label: filters, duplicates, shortlist, diversity, random reserve.

Everything here is a pure function of arrays; what reads files and calls pymatgen lives in
``gace_platform.candidates``. ``n`` candidates, ``D`` features of a structure.
"""

from gace.selection.deduplicate import deduplicate
from gace.selection.descriptor import distance_histogram
from gace.selection.features import gradient_sketch
from gace.selection.lcmd import farthest_points, largest_cluster_maximum_distance
from gace.selection.shortlist import content_order, random_reserve, shortlist

__all__ = [
    "content_order",
    "deduplicate",
    "distance_histogram",
    "farthest_points",
    "gradient_sketch",
    "largest_cluster_maximum_distance",
    "random_reserve",
    "shortlist",
]
