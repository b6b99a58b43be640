"""Validation as a rehearsal of the test: which lists the blocks are fitted to, and which queries choose their settings."""

import numpy as np

from trainer.data.examples import Cases, Lists, Prepared

CASES = 3000  # validation queries at most
CELLS = 5e7  # scores held at a time at most, over all queries of one block
POSITIONS = 5  # events at the end of a history that serve as validation, where users are few


def rehearsal(prepared: Prepared) -> tuple[Lists, Cases]:
    """Returns lists to fit on and cases to choose by, from what lies before the test.

    Where one event a user is held out and users are few, the last `POSITIONS` events of each history, of a short one its last quarter
    or event, are rehearsed one by one: up to five times the cases, and none of them the test's.
    """
    validation = prepared.validation
    single = prepared.ordered and bool((validation.positives.lengths == 1).all())
    if not (single and 0 < len(validation) < CASES):
        return prepared.train.by_user(len(prepared.users)), sample(validation, len(prepared.items))
    lists = prepared.before_test.known().by_user(len(prepared.users))
    positions = min(POSITIONS, -(-CASES // len(validation)))
    held = np.minimum(positions, np.maximum(lists.lengths // 4, lists.lengths > 1))
    fitted = lists.spans(lists.offsets[:-1], lists.lengths - held)
    user = np.repeat(np.arange(len(lists)), held)
    back = np.concatenate([np.arange(n, 0, -1) for n in held]) if held.sum() else np.zeros(0, np.int64)
    begin, place = lists.offsets[user], lists.offsets[1:][user] - back
    cases = Cases(
        user=user.astype(np.int32),
        history=lists.spans(begin, place - begin),
        positives=lists.cut(np.arange(len(user) + 1), place),
        timestamp=lists.timestamps[place],
    )
    return fitted, sample(_fresh(cases), len(prepared.items))


def _fresh(cases: Cases) -> Cases:
    """Returns the cases whose positive is not in the history."""
    owner = cases.history.owners
    again = np.bincount(owner, cases.history.items == cases.positives.items[owner], minlength=len(cases)) > 0
    return cases.take(np.flatnonzero(~again))


def sample(cases: Cases, items: int) -> Cases:
    """Returns the cases, or a fixed sample of them where there are many or the corpus is large."""
    return cases.at_most(min(CASES, at_a_time(items)))


def at_a_time(items: int) -> int:
    """Returns how many queries' scores over a corpus are held at a time."""
    return int(max(CELLS / items, 200))
