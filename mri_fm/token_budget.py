"""The token budget: work on the tokens that hold foreground, and on no more than a fixed number of them.

More than half of a brain volume's tokens are air. A budget of K tokens a sample keeps shapes static, so that a step costs what
it says. `mri_fm.masking.keep_tokens` chooses them; here is how many there are and what is lost.

Axes: N tokens, K kept tokens, S samples.
"""

from __future__ import annotations

import math

import numpy as np

PERCENTILE = 95


def count_kept(num_tokens: int, share: float) -> int:
    """K for N tokens: round-half-up(share·N), at least 2, since one is hidden and one visible."""
    return max(2, math.floor(share * num_tokens + 0.5))


def needed_share(foreground_S: np.ndarray, num_tokens: int) -> float:
    """The 95th percentile over samples of the number of foreground tokens, as a share of all tokens, in (0, 1]."""
    return min(1.0, max(2, math.ceil(np.percentile(foreground_S, PERCENTILE))) / num_tokens)


def lost_share(foreground_S: np.ndarray, kept: int) -> float:
    """Share of all foreground tokens that a budget of `kept` tokens drops on each pass."""
    return float(np.maximum(foreground_S - kept, 0).sum() / max(1, foreground_S.sum()))
