"""Several contrasts of one session: a position holds a session, and its slots show different contrasts of it."""

from __future__ import annotations

from collections.abc import Sequence

from mri_fm.data.corpus import Sample
from mri_fm.rng import Stream, generator


class Sessions:
    """Samples by (data set, subject, session), and which of them a slot shows."""

    def __init__(self, samples: Sequence[Sample], slots: int, seed: int) -> None:
        """Group `samples`, whose order is the same on all ranks, for positions with `slots` contrasts."""
        self.slots, self.seed = slots, seed
        groups: dict[tuple[str, str, str], dict[str, list[int]]] = {}
        for number, sample in enumerate(samples):
            session = groups.setdefault((sample.dataset, sample.subject, sample.session), {})
            session.setdefault(sample.contrast, []).append(number)
        self._scans = [[session[contrast] for contrast in sorted(session)] for session in groups.values()]

    def __len__(self) -> int:
        return len(self._scans)

    def first(self, unit: int) -> int:
        """The number of one sample of a session."""
        return self._scans[unit][0][0]

    def shown(self, unit: int) -> int:
        """How many slots show a contrast of their own: the first ones."""
        return min(self.slots, len(self._scans[unit]))

    def sample(self, unit: int, position: int, slot: int) -> int:
        """The number of the sample that a slot shows.

        A session with more contrasts than slots shows a random choice of them, in the order of their names; one with fewer
        begins again at its first. Of several scans of a contrast each slot takes one at random.
        """
        scans = self._scans[unit]
        draw = generator(self.seed, Stream.SESSION, position)
        chosen = sorted(draw.permutation(len(scans))[: self.slots].tolist())
        scan = draw.random(self.slots)[slot]
        alike = scans[chosen[slot % len(chosen)]]
        return alike[int(scan * len(alike))]
