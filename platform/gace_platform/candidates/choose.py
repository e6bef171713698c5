"""The selection from beginning to end: filter, reserve, duplicates, shortlist, diversity.

The order of the candidates' files changes nothing: the pool is brought into the order of the
structures' hashes first, and every random number belongs to a hash. The reserve is drawn before
everything that prefers one candidate over another, so it is a fair sample of what the exploration
can meet; diversity then treats it as known.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gace.potential.potential import Potential
from gace.selection import content_order, random_reserve
from gace_platform.candidates.config import SelectConfig
from gace_platform.candidates.diversity import pick_diverse
from gace_platform.candidates.judgement import (
    Judgement,
    Progress,
    drop_unknown_elements,
    drop_unphysical,
    judge,
    labelled_energies,
    lowest_energies,
)
from gace_platform.candidates.pool import Pool, Rejections, drop_collided, drop_known, gather_pool, read_all
from gace_platform.candidates.reasons import Pick, explain_random, explain_reserve


@dataclass
class Selection:
    """What was picked, what fell out, and how many were left after each stage."""

    picks: list[Pick] = field(default_factory=list)
    rejections: Rejections = field(default_factory=Rejections)
    funnel: dict[str, int] = field(default_factory=dict)


def silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def select(config: SelectConfig, progress: Progress = silent) -> Selection:
    """Run one selection; paths in ``config`` are used as they are.

    Fewer picks than asked for, even none, is a result and no error: ``funnel`` tells where the
    candidates went.

    Raises:
        InputError: a file or the potential cannot be read.
    """
    raw, known = read_all(config.pool_files), read_all(config.training_files)
    potential = _load(config)
    result = Selection(funnel={"pool": len(raw)})
    pool = gather_pool(raw, result.rejections)
    pool = drop_known(pool, known, config, result.rejections)
    pool = drop_unknown_elements(pool, potential, result.rejections)
    pool = drop_collided(pool, config, result.rejections)
    judgement = judge(potential, pool.structures, progress)
    labelled = lowest_energies(known, labelled_energies(known, potential))
    physical = drop_unphysical(pool, judgement, labelled, config, result.rejections)
    pool, judgement = pool.keep(physical), judgement.take(physical)
    result.funnel["physical"] = n_physical = len(pool)

    reserve = random_reserve(pool.hashes, config.n_reserve, config.seed)
    for number, row in enumerate(reserve):
        reason = explain_reserve(number + 1, len(reserve), n_physical)
        result.picks.append(Pick.of(pool, judgement, int(row), "reserve", reason))
    rest = np.setdiff1d(np.arange(n_physical), reserve)
    drawn, pool, judgement = pool.take(reserve), pool.take(rest), judgement.take(rest)
    count = config.count - config.n_reserve
    if config.strategy == "random":
        result.picks += _pick_random(pool, judgement, count, n_physical, config.seed, result.rejections)
    else:
        known = [*known, *drawn.structures]
        picks, funnel = pick_diverse(
            pool, judgement, known, potential, count, config, result.rejections, progress
        )
        result.picks += picks
        result.funnel |= funnel
    result.funnel |= {"reserve": len(reserve), "selected": len(result.picks)}
    return result


def _pick_random(
    pool: Pool, judgement: Judgement, count: int, n_physical: int, seed: int, rejections: Rejections
) -> list[Pick]:
    """The baseline: any physical candidate is as good as another."""
    order = content_order(seed, "random", pool.hashes)[:count]
    left_out = ~np.isin(np.arange(len(pool)), order)
    rejections.add("not_chosen", "the random draw fell on others", pool.names(left_out))
    return [
        Pick.of(pool, judgement, int(row), "random", explain_random(number + 1, len(order), n_physical))
        for number, row in enumerate(order)
    ]


def _load(config: SelectConfig) -> Potential | None:
    if config.potential is None:
        return None
    from gace.potential.bundle import load

    return load(config.potential, device=config.device, dtype=config.dtype)
