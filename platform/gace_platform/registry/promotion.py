"""From a registered version to the champion: the exam, its record, and the alias."""

from __future__ import annotations

import tempfile
from pathlib import Path

from gace.errors import InputError
from gace.files import write_json_atomic
from gace_platform.exam.config import Criteria
from gace_platform.exam.result import ExamResult
from gace_platform.registry.runs import log_metrics
from gace_platform.registry.store import Store
from gace_platform.registry.versions import PROMOTED, VERDICT, bundle_of, champion, get_version, promote

EXAM_FILE = "exam.json"


def examine_version(
    store: Store, name: str, version: str, structures: Path, criteria: Criteria
) -> ExamResult:
    """Let a version sit the exam against the present champion and record the verdict.

    The result is kept with the version's run (``exam/exam.json``) and the verdict as its tag ``exam``.
    A version that has sat the same exam before is not examined again: the first verdict stands.

    Raises:
        InputError: no such version; the exam's file is missing or has no labels.
    """
    from gace_platform.exam.examine import examine

    client = store.client()
    with tempfile.TemporaryDirectory() as scratch:
        with store.writing():
            target = get_version(client, name, version)
            known = _recorded(store, str(target.run_id), Path(scratch)) if target.tags.get(VERDICT) else None
            current = champion(client, name)
            bundle = bundle_of(client, target, Path(scratch) / "new")
            rival = None
            if current is not None and current != str(target.version):
                rival = bundle_of(client, get_version(client, name, current), Path(scratch) / "champion")
        if known is not None and known.exam_hash == _hash_of(structures) and known.criteria == criteria:
            return known
        result = examine(bundle, structures, criteria, rival)
        file = Path(scratch) / EXAM_FILE
        write_json_atomic(file, result.model_dump(mode="json"))
        with store.writing():
            run_id, number = str(target.run_id), str(target.version)
            client.log_artifact(run_id, str(file), "exam")
            client.set_tag(run_id, VERDICT, result.verdict)
            log_metrics(client, run_id, _figures(result), _step(client.get_run(run_id).data.params))
            client.update_model_version(name, number, _description(result))
            # the verdict counts once this tag is set; promoting comes after it
            client.set_model_version_tag(name, number, VERDICT, result.verdict)
        return result


def promote_if_due(store: Store, name: str, version: str) -> bool:
    """Make a version that passed its exam champion; whether it is, or has been, the champion.

    A version that was champion already and was replaced, or that is older than the champion, is left
    alone: a step that is repeated after a kill does not turn back the clock.

    Raises:
        InputError: no such version, or it has not passed.
    """
    with store.writing():
        client = store.client()
        target = get_version(client, name, version)
        current = champion(client, name)
        since = get_version(client, name, current).tags.get(PROMOTED, "") if current is not None else ""
    if str(target.version) == current:
        return True
    was = target.tags.get(PROMOTED, "")
    # a newer champion stays, and so does an older one that was put back on purpose
    if current is not None and (int(current) > int(target.version) or (was and since > was)):
        return bool(was)
    promote(store, name, str(target.version))
    return True


def _figures(result: ExamResult) -> dict[str, float]:
    """Figures of an exam as metrics of the generation's run: the learning curve in MLflow."""
    found = {"exam/forces_mae": result.errors.forces_mae, "exam/energy_mae": result.errors.energy_mae}
    return {name: estimate.value for name, estimate in found.items() if estimate is not None}


def _step(parameters: dict[str, str]) -> int:
    """The step of a generation's metrics: labels paid for, else its number."""
    return int(parameters.get("n_labels") or parameters.get("generation") or 0)


def _description(result: ExamResult) -> str:
    """The exam in one sentence."""
    error = result.errors.forces_mae
    found = "no forces to compare" if error is None else f"force MAE {error.value:.4g} meV/Å"
    reason = f" ({result.reason})" if result.reason else ""
    return f"Exam {result.verdict}{reason}; {found} on {result.errors.n_structures} structures"


def _recorded(store: Store, run_id: str, scratch: Path) -> ExamResult | None:
    """The exam kept with a run; None when it cannot be read."""
    from mlflow.exceptions import MlflowException

    try:
        path = store.client().download_artifacts(run_id, f"exam/{EXAM_FILE}", str(scratch))
        return ExamResult.model_validate_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, MlflowException):
        return None


def _hash_of(structures: Path) -> str:
    """Hash of the labelled structures in a file.

    Raises:
        InputError: it cannot be read.
    """
    from gace.structures.identity import dataset_hash
    from gace.structures.io import read_structures

    frames = read_structures(structures)
    if not frames:
        raise InputError(f"{structures} holds no structures to examine with")
    return dataset_hash(frames)


__all__ = ["examine_version", "promote_if_due"]
