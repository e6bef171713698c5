"""One selection with its files: ``selected.xyz`` and ``selection.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gace.errors import InputError
from gace.files import write_json_atomic
from gace.structures.io import write_structures
from gace_platform.candidates.choose import select, silent
from gace_platform.candidates.config import SelectConfig

FORMAT_VERSION = 1


def run_selection(config: SelectConfig, out: Path, watch: bool = False) -> dict[str, Any]:
    """Select and write; ``selection.json`` comes last, so its presence means "done".

    Args:
        config: with absolute paths.
        out: folder for ``selected.xyz`` (empty if nothing could be picked) and ``selection.json``.
        watch: show progress on standard error where that is a terminal.

    Returns:
        The content of ``selection.json``.

    Raises:
        InputError: an input cannot be read or ``out`` cannot be written; before anything is computed.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from None
    if watch:
        from gace_platform.candidates.progress import watching

        with watching() as progress:
            result = select(config, progress)
    else:
        result = select(config, silent)
    summary = {
        "format_version": FORMAT_VERSION,
        "strategy": config.strategy,
        "n_requested": config.count,
        "n_selected": len(result.picks),
        "n_reserve": result.funnel["reserve"],
        "n_pool": result.funnel["pool"],
        "funnel": result.funnel,
        "picks": [pick.entry(rank) for rank, pick in enumerate(result.picks)],
        "rejected": result.rejections.as_list(),
        "selected": "selected.xyz",
        "config": json.loads(config.model_dump_json()),
    }
    write_structures(
        out / "selected.xyz", [pick.labelled_atoms(rank) for rank, pick in enumerate(result.picks)]
    )
    write_json_atomic(out / "selection.json", summary)
    return summary
