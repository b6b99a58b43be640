"""How a baseline enters the comparison: fitted on the split of the model, measured as the model is."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from trainer import registry
from trainer.baselines.fitting import with_validation
from trainer.data.examples import Prepared
from trainer.errors import UserError
from trainer.evaluation.reports import Report
from trainer.memory import Cost, costing
from trainer.progress import Reporter

_Report = TypeVar("_Report", bound=Report)


def enter_all(
    kind: str, names: Sequence[str], prepared: Prepared, reporter: Reporter, measure: Callable[[Any], _Report]
) -> tuple[dict[str, _Report], dict[str, Cost]]:
    """Returns by name the reports of the baselines that could be had, and the costs of all; see `enter`."""
    found = {name: enter(kind, name, prepared, reporter, measure) for name in names}
    reports = {name: report for name, (report, _) in found.items() if report is not None}
    return reports, {name: cost for name, (_, cost) in found.items()}


def enter(
    kind: str, name: str, prepared: Prepared, reporter: Reporter, measure: Callable[[Any], _Report]
) -> tuple[_Report | None, Cost]:
    """Returns the report of the baseline `name` of a `kind`, fitted and measured, and the cost of its fit.

    Settings are chosen on validation; then the baseline learns once more with the validation events, so
    that the test finds it at its best. Where it cannot be had here, or fails, there is no report: a line
    says why, the cost keeps the reason, and the run goes on. Raises `UserError` for an unknown name.
    """
    baseline, cost = registry.build(kind, name, {}), Cost()
    try:
        with reporter.step(f"baseline {name}"), costing() as cost:
            fitted = baseline.fit(prepared)
            if len(prepared.before_test) > len(prepared.train):
                again = registry.build(kind, name, baseline.chosen)
                fitted = again.fit(with_validation(prepared))
        cost.chosen = dict(baseline.chosen)
        return measure(fitted), cost
    except Exception as error:  # one baseline, its library included, ends no run
        cost.left_out = _reason(error)
        reporter.say(f"baseline {name} is left out: {cost.left_out}")
        return None, cost


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"out of memory {error}".strip()
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
