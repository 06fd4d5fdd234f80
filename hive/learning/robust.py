"""Other ways to one update from many: what a minority sends has a bounded effect, whatever it is.

They cost memory, as all updates of a round are needed at once, and a little of what honest peers
find; they do not say who is who. `rules` and `trust` do that.
"""
from __future__ import annotations

from typing import Callable, Dict, Optional

from torch import Tensor

TRIMMED = 0.25  # of the values at either end
ITERATIONS = 3


def trimmed_mean(updates: Tensor, weights: Tensor, centre: Tensor) -> Tensor:
    """Of each coordinate of updates (K, n) the mean (n,) without the smallest and the largest
    values (Yin et al. 2018, arXiv 1803.01498, definition 2). Weights (K,) play no part: a peer
    that claims much would be trimmed less."""
    cut = int(TRIMMED * len(updates))
    return updates.sort(0).values[cut: len(updates) - cut].mean(0)


def centred_clip(updates: Tensor, weights: Tensor, centre: Tensor) -> Tensor:
    """The weighted mean (n,) of updates (K, n), each no further from the centre than the median of
    them (Karimireddy et al. 2021, arXiv 2012.10333, algorithm 2). The centre (n,), at first that of
    the round before, moves to what comes out."""
    shares = weights / weights.sum()
    for _ in range(ITERATIONS):
        away = updates - centre
        distances = away.norm(dim=1)  # (K,)
        kept = (distances.median() / distances.clamp(min=1e-30)).clamp(max=1.0)
        centre = centre + (shares * kept) @ away
    return centre


Combination = Callable[[Tensor, Tensor, Tensor], Tensor]
COMBINATIONS: Dict[str, Optional[Combination]] = {
    "mean": None, "trimmed": trimmed_mean, "clipped": centred_clip}
