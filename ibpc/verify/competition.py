"""Results in the format of VNN-COMP: one word, and a counterexample as a list of values.

(Rules of the International Verification of Neural Networks Competition 2024, section "output format".)
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ibpc.verify.decide import Decision
from ibpc.verify.verdicts import Verdict

WORDS: Final[Mapping[Verdict, str]] = MappingProxyType(
    {
        Verdict.VERIFIED: "unsat",
        Verdict.FALSIFIED: "sat",
        Verdict.UNKNOWN: "unknown",
        Verdict.TIMEOUT: "timeout",
    }
)


def result_text(decision: Decision) -> str:
    """Return the result; `sat` is followed by the counterexample, `((X_0 v) … (Y_0 v) …)`.

    Values are written so that reading them back gives the same numbers.
    """
    lines = [WORDS[decision.verdict]]
    found = decision.counterexample
    if found is not None:
        sides = (("X", found.inputs), ("Y", found.outputs))
        pairs = [f"({name}_{index} {value!r})" for name, values in sides for index, value in enumerate(values)]
        lines.append("(" + "\n ".join(pairs) + ")")
    return "\n".join(lines) + "\n"
