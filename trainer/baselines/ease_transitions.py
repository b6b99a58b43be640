"""Taste and moment together: EASE's scores plus a share of the transitions', each scaled to a best of 1 in every case."""

import numpy as np

from trainer.baselines.ease import Ease
from trainer.baselines.fitting import choose, given
from trainer.baselines.transitions import Transitions
from trainer.data.examples import Cases, Floats, Prepared
from trainer.evaluation.scoring import Scorer
from trainer.registry import register

_SHARES = (0.3, 0.1, 0.6, 1.0)


class Blend:
    """first + share * second, both scaled to a largest score of 1 in each case."""

    def __init__(self, first: Scorer, second: Scorer, share: float) -> None:
        self.first, self.second, self.share = first, second, share

    def scores(self, cases: Cases) -> Floats:
        """Returns scores `[cases, rows]`."""
        found = _scaled(self.first.scores(cases))
        found += np.float32(self.share) * _scaled(self.second.scores(cases))
        return found


@register("baseline", "ease_transitions")
class EaseTransitions:
    """The blend of `ease` and `transitions`; with `decayed`, both over recency-weighted histories.

    `share` is the weight of the transitions, and the other settings are those of the two. None: chosen on
    validation, first the parts' own settings, then the share.
    """

    def __init__(
        self,
        share: float | None = None,
        regularisation: float | None = None,
        half_life: float | None = None,
        transition_half_life: float | None = None,
        decayed: bool = False,
    ) -> None:
        self.share = share
        self._ease = Ease(regularisation, half_life, decayed)
        self._transitions = Transitions(transition_half_life, decayed)
        self.chosen: dict[str, float] = {}

    def fit(self, prepared: Prepared) -> Scorer:
        """Returns the fitted blend; raises `UserError` where EASE cannot be had."""
        ease, transitions = self._ease.fit(prepared), self._transitions.fit(prepared)
        share, scorer = choose(
            given(self.share, _SHARES), lambda share: Blend(ease, transitions, share), prepared
        )
        moment = {f"transition_{name}": value for name, value in self._transitions.chosen.items()}
        self.chosen = {"share": share, **self._ease.chosen, **moment}
        return scorer


@register("baseline", "ease_decayed_transitions")
def decayed(
    share: float | None = None,
    regularisation: float | None = None,
    half_life: float | None = None,
    transition_half_life: float | None = None,
) -> EaseTransitions:
    """Returns the blend over recency-weighted histories."""
    return EaseTransitions(share, regularisation, half_life, transition_half_life, decayed=True)


def _scaled(scores: Floats) -> Floats:
    scores[:, 0] = 0
    best = np.abs(scores).max(axis=1, keepdims=True)
    scores /= np.where(best > 0, best, 1)
    return scores
