"""Several scores in one number, by their ranks: what they measure need not be comparable."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence


def rank_sum(scores: Mapping[str, float], reference: Mapping[str, Sequence[float]]) -> float:
    """Sum of log(rank / number) over the scores (Lee and Ham, "AZ-NAS", CVPR 2024).

    The logarithm punishes one bad rank more than it rewards a good one. AZ-NAS ranks the networks
    of a search among each other; here one network is ranked in a population that stays the same:
    the reference, and the network itself.

    Args:
        scores: Of the network, by name; more is better.
        reference: Of every other network of the population, in ascending order, by the same names;
            minus infinity where it has none.

    Returns:
        At most 0, which it is if the network has the highest of all scores. The worst rank is 1;
        equal scores share their mean rank.
    """
    logarithms = []
    for name, score in scores.items():
        others = reference[name]
        rank = 1 + (bisect_left(others, score) + bisect_right(others, score)) / 2
        logarithms.append(math.log(rank / (len(others) + 1)))
    return math.fsum(logarithms)
