"""The ladder of remedies: what it tries next, what it learns, what it gives up."""

import pytest

from gace_platform.labelling.ladder import FAILURE_CLASSES, Ladder, Remedy

REMEDIES = [
    Remedy("as asked"),
    Remedy("damping", ("unconverged",)),
    Remedy("second order", ("unconverged",)),
    Remedy("other solver", ("diagonalisation",)),
    Remedy("more time", ("timeout",), patience=4.0),
]


def attempts(*steps):
    """Attempts as a record holds them, from pairs (remedy, failure class or None)."""
    names = [remedy.name for remedy in REMEDIES]
    return [
        {"attempt": names.index(name), "remedy": name, "failure_class": failure} for name, failure in steps
    ]


def ladder(*histories, limit=4):
    return Ladder(REMEDIES, limit).learn_all(histories)


def test_first_attempt_is_what_was_asked_for():
    assert ladder().next([]) == 0


@pytest.mark.parametrize(
    ("failure", "remedy"),
    [("unconverged", "damping"), ("diagonalisation", "other solver"), ("timeout", "more time")],
)
def test_without_history_the_remedy_made_for_the_failure_comes_first(failure, remedy):
    assert REMEDIES[ladder().next(attempts(("as asked", failure)))].name == remedy


def test_no_remedy_is_repeated():
    seen = [("as asked", "unconverged")]
    one = ladder(limit=10)
    while (number := one.next(attempts(*seen))) is not None:
        seen.append((REMEDIES[number].name, "unconverged"))
    names = [name for name, _ in seen]
    assert len(names) == len(set(names)) == 4  # more time is not for what did not converge


def test_attempts_are_limited():
    seen = attempts(("as asked", "unconverged"), ("damping", "unconverged"))
    assert ladder(limit=2).next(seen) is None


def test_order_follows_success():
    failed = attempts(("as asked", "unconverged"), ("damping", "unconverged"), ("second order", None))
    learnt = ladder(failed, failed)
    assert REMEDIES[learnt.next(attempts(("as asked", "unconverged")))].name == "second order"


def test_success_after_one_class_says_nothing_about_another():
    failed = attempts(("as asked", "diagonalisation"), ("second order", None))
    assert REMEDIES[ladder(failed).next(attempts(("as asked", "unconverged")))].name == "damping"


def test_a_remedy_that_never_helps_is_given_up():
    hopeless = attempts(("as asked", "timeout"), ("more time", "timeout"))
    assert REMEDIES[ladder(hopeless).next(attempts(("as asked", "timeout")))].name == "more time"
    learnt = ladder(*[hopeless] * 20, limit=10)
    assert learnt.expectation("timeout", REMEDIES[4]) < 0.1


def test_a_senseless_geometry_is_not_tried_again():
    assert ladder().next(attempts(("as asked", "geometry"))) is None


def test_a_kill_says_nothing_about_the_remedy():
    killed = attempts(("as asked", "unconverged"), ("damping", "killed"))
    assert ladder().next(killed) == 1
    assert ladder(killed).table() == []


def test_the_same_history_in_another_order_gives_the_same_ladder():
    first = attempts(("as asked", "unconverged"), ("damping", "unconverged"), ("second order", None))
    second = attempts(("as asked", "unconverged"), ("damping", None))
    assert ladder(first, second).table() == ladder(second, first).table()


def test_every_class_a_remedy_names_exists():
    from gace_platform.labelling.config import PySCFReference, TeacherReference
    from gace_platform.labelling.engines.base import make_engine

    for reference in (PySCFReference(), TeacherReference(engine="teacher", calculator="tblite")):
        for remedy in make_engine(reference).remedies():
            assert set(remedy.helps) <= set(FAILURE_CLASSES)
