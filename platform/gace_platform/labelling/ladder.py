"""The ladder of remedies: what to try after a failure, learnt from what has helped so far.

The ladder looks at finished calculations only, and its choice is a function of them alone: the same history
gives the same order, whatever was killed, and however many processes work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

FAILURE_CLASSES = {
    "unconverged": "the self-consistent field did not converge",
    "diagonalisation": "an eigenvalue problem or a symmetry operation broke down",
    "timeout": "the time limit was reached",
    "memory": "the program could not get the memory it asked for",
    "killed": "somebody else ended it: a lost node, a kill, the kernel's out-of-memory killer",
    "disk": "the program could not write: a full disk, which is no fault of the structure",
    "geometry": "the structure makes no sense to the program, such as atoms on top of each other",
    "parser": "the program ended well, and its output cannot be read",
    "not_finite": "energy, forces or stress hold NaN or infinity",
    "crashed": "the program ended with an error of its own",
    "error": "anything else",
}
"""What can go wrong, by the word that is stored with each failed attempt."""

HOPELESS = frozenset({"geometry"})
"""Failures of the structure, not of the calculation: only a remedy made for them is tried."""

PASSING = frozenset({"killed"})
"""Failures that say nothing about the calculation: it is tried again with the same remedy."""

VAGUE = frozenset({"parser", "not_finite", "crashed", "error"})
"""Failures that do not name their cause: any remedy may help."""

SUITED, UNSUITED = 0.75, 0.25
"""Expected success of a remedy before anything is known, if it is made for the failure and if it is not."""

WEIGHT = 2.0
"""How many observations that expectation counts for."""

GIVE_UP = 0.1
"""A remedy whose expected success has sunk below this is not tried."""

Attempts = Sequence[Mapping[str, Any]]


class Remedy(NamedTuple):
    """One way to carry out a calculation; the first of an engine's is how it was asked for."""

    name: str
    helps: tuple[str, ...] = ()
    """Failure classes it is made for."""
    patience: float = 1.0
    """Factor on the time limit."""


class Ladder:
    """Chooses the next remedy from an engine's by the successes recorded so far.

    Args:
        remedies: of the engine, in its own order; the first is always tried first.
        limit: attempts per structure at most, those that were killed from outside not counted.
    """

    def __init__(self, remedies: Sequence[Remedy], limit: int) -> None:
        self.remedies = list(remedies)
        self.limit = limit
        self._tried: Counter[tuple[str, str]] = Counter()
        self._helped: Counter[tuple[str, str]] = Counter()

    def learn(self, attempts: Attempts) -> None:
        """Take in the attempts at one structure, in their order (see ``LabelRecord.attempts``)."""
        for failed, following in pairwise(attempts):
            if failed["failure_class"] is None or failed["failure_class"] in PASSING:
                continue
            if following["failure_class"] in PASSING:
                continue
            pair = (str(failed["failure_class"]), str(following["remedy"]))
            self._tried[pair] += 1
            self._helped[pair] += following["failure_class"] is None

    def learn_all(self, histories: Iterable[Attempts]) -> Ladder:
        """Take in many structures; returns the ladder."""
        for attempts in histories:
            self.learn(attempts)
        return self

    def next(self, attempts: Attempts) -> int | None:
        """Position of the remedy to try after these attempts at a structure; None: there is none left.

        A remedy that failed is not repeated, unless the attempt was killed from outside.
        """
        if not attempts:
            return 0
        last = attempts[-1]["failure_class"]
        if last in PASSING:
            return int(attempts[-1]["attempt"])
        counted = [one for one in attempts if one["failure_class"] not in PASSING]
        if len(counted) >= self.limit:
            return None
        spent = {str(one["remedy"]) for one in counted}
        hopeful = [
            (-self.expectation(str(last), remedy), number)
            for number, remedy in enumerate(self.remedies)
            if remedy.name not in spent and self.expectation(str(last), remedy) >= GIVE_UP
        ]
        return min(hopeful)[1] if hopeful else None

    def expectation(self, failure_class: str, remedy: Remedy) -> float:
        """Expected success of a remedy after a failure of this class, between 0 and 1."""
        suited = failure_class in remedy.helps
        if not suited and (failure_class in HOPELESS or remedy.patience != 1):
            return 0.0
        prior = SUITED if suited or failure_class in VAGUE else UNSUITED
        pair = (failure_class, remedy.name)
        return (self._helped[pair] + WEIGHT * prior) / (self._tried[pair] + WEIGHT)

    def table(self) -> list[dict[str, Any]]:
        """What has been learnt: one row per failure class and remedy that was tried after it."""
        by_name = {remedy.name: remedy for remedy in self.remedies}
        return [
            {
                "failure_class": failure,
                "remedy": name,
                "tried": count,
                "helped": self._helped[failure, name],
                "expectation": round(self.expectation(failure, by_name.get(name, Remedy(name))), 3),
            }
            for (failure, name), count in sorted(self._tried.items())
        ]
