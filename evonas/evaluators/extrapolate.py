"""Learning-curve extrapolation: train for a share of the epochs, judge by where the curve leads.

Domhan et al. (IJCAI 2015) fit eleven kinds of curves; here are an exponential and a power law. A
free fit is a poor judge of networks: where noise leaves the rest of the way undetermined,
asymptotes scatter more than the accuracies they should rank. So what is still to come is drawn
towards nothing, weakly: sharp data override it, noisy data do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from evonas.errors import OptionError
from evonas.evaluators.base import Context, Evaluator, Reporter, Wrapper
from evonas.recipe.options import Share
from evonas.trial import Trial

Model = Literal["last", "exponential", "power"]
Values = NDArray[np.float64]

_CODES: Mapping[Model, float] = {"last": 0.0, "exponential": 1.0, "power": 2.0}
_FEWEST = 5  # values: three parameters are to be fitted, and two are to contradict them
_GAIN = 0.01  # accuracy still to come that costs a fit as much as missing a value by the noise
_SHARPEST = 1e-6  # accuracy; noise below it is rounding
_POWER_IS = 10.0  # times nearer to the curve than the exponential, or it is not taken
_F = 5.0  # F statistic of a fit against a constant; noise exceeds it about once in a hundred
_RECENT = 5  # values at the end, which a fit must not miss all together
_VISIBLE = 1e-4  # accuracy; a smaller miss is none
_MISSED = 2.0  # their mean distance from the fit in standard deviations round that mean


@dataclass(frozen=True)
class Extrapolation:
    """Where a learning curve leads.

    Attributes:
        value: The accuracy expected in the end, 0…1.
        model: The fit whose asymptote that is; ``last``: neither fits, it is the last value.
        error: Root mean square distance of that fit from the curve; of ``last``: the values'
            standard deviation.
    """

    value: float
    model: Model
    error: float


@dataclass(frozen=True)
class _Fit:
    """A fitted curve: its asymptote, and what the values are above it, step by step."""

    model: Model
    asymptote: float
    residuals: Values

    @property
    def error(self) -> float:
        return float(np.sqrt(np.mean(self.residuals**2)))

    def holds(self, curve: Values) -> bool:
        """Whether it tells more than a constant, and ends where the curve ends."""
        unexplained = float(np.sum(self.residuals**2))
        explained = float(np.sum((curve - curve.mean()) ** 2)) - unexplained
        recent = self.residuals[-_RECENT:]
        missed = abs(float(recent.mean())) > _MISSED * float(recent.std(ddof=1)) + _VISIBLE
        return explained / 2 > _F * unexplained / (len(curve) - 3) and not missed


def extrapolate(values: Sequence[float], steps: Sequence[int] | None = None) -> Extrapolation:
    """Extrapolate a learning curve to its end.

    Fits acc(t) = a - exp(-b (t - t0)) and the power law acc(t) = a - c t^-b, both rising, with the
    asymptote a in 0…1; later steps count more, and outliers less. The power law has the longer
    tail and the less certain asymptote, so it must fit ten times as well to be taken. Neither fits
    a curve of fewer than five values, one that it hardly describes better than a constant, or one
    whose last five values are together off it, as where a learning rate annealed to zero lifts
    the end.

    Args:
        values: Accuracies, 0…1.
        steps: Their epochs, rising; default 1, 2, 3, …

    Raises:
        ValueError: There are no values, or not finite ones.
    """
    curve = np.asarray(values, dtype=np.float64)
    if not curve.size or not np.isfinite(curve).all():
        raise ValueError("only a curve of finite values, at least one, can be extrapolated")
    times = np.arange(1.0, len(curve) + 1) if steps is None else np.asarray(steps, np.float64)
    times = times + max(0.0, 1 - times[0])  # a power law has no step 0
    last = Extrapolation(float(np.clip(curve[-1], 0, 1)), "last", float(curve.std()))
    if len(curve) < _FEWEST or curve.std() <= _SHARPEST:
        return last
    exponential, power = _fit("exponential", times, curve), _fit("power", times, curve)
    best = power if _POWER_IS * power.error < exponential.error else exponential
    return Extrapolation(best.asymptote, best.model, best.error) if best.holds(curve) else last


class Extrapolate(Wrapper):
    """Train for a share of the effort, and extrapolate the learning curve.

    Besides the inner evaluator's metrics it gives ``{metric}_extrapolated``, to be used as the
    objective; ``fit_error``, the root mean square distance of the fit from the curve; and
    ``fit_model``: 0 the last value since neither fits, 1 exponential, 2 power law. ``metric``
    itself stays what was measured. The final training is not shortened.

    Args:
        context: The world.
        of: The evaluator to wrap; it must report ``metric``, 0…1, on the way.
        share: Of a trial's training, (0, 1]; it is cut off there, so that the curve is that of the
            whole training's learning rates.
        metric: What to extrapolate.
    """

    changes = frozenset({"share"})

    def __init__(
        self,
        context: Context,
        of: Callable[[Context], Evaluator],
        share: Share = 0.25,
        metric: str = "val_accuracy",
    ) -> None:
        super().__init__(context, of(replace(context, share=share)))
        reported = [name for name in self.inner.metrics if name in self.inner.reports]
        if metric not in reported:
            known = ", ".join(reported) or "none: nothing is reported on the way"
            raise OptionError("metric", f"must be one of {known}, not {metric!r}")
        self._metric = metric
        self._extrapolated = f"{metric}_extrapolated"
        self.metrics = (*self.inner.metrics, self._extrapolated, "fit_error", "fit_model")

    def score(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        """The inner evaluator's metrics after a share of the effort, and where the curve leads."""
        curve: dict[int, float] = {}

        def both(step: int, metrics: Mapping[str, float]) -> None:
            if self._metric in metrics:
                curve[step] = float(metrics[self._metric])
            report(step, metrics)

        metrics = self.inner.evaluate(trial, both)
        if not curve:
            raise ValueError(
                f"extrapolate: the inner evaluator reported no {self._metric} on the way"
            )
        if not all(0 <= value <= 1 for value in curve.values()):
            raise ValueError(f"extrapolate: {self._metric} must be reported in 0…1")
        steps = sorted(curve)
        found = extrapolate([curve[step] for step in steps], steps)
        return {
            **metrics,
            self._extrapolated: found.value,
            "fit_error": found.error,
            "fit_model": _CODES[found.model],
        }


def _fit(model: Model, times: Values, curve: Values) -> _Fit:
    """Fit a - rest * shape(t), where the shape is 1 at the last step: ``rest`` is still to come."""
    shape, rates = _shape(model, times)
    weights = np.sqrt(times / times[-1])

    def residuals(parameters: Values) -> Values:
        asymptote, rest, rate = parameters
        return np.asarray(curve - asymptote + rest * shape(rate))

    def solve(start: Values, gain: float) -> Values:
        noise = max(float(np.sqrt(np.mean(residuals(start) ** 2))), _SHARPEST)
        solution = least_squares(
            lambda p: np.append(residuals(p) * weights / noise, p[1] / gain),
            start,
            bounds=([0, 0, rates[0]], [1, 1, rates[-1]]),
            loss="soft_l1",
        )
        return np.asarray(solution.x)

    free = solve(_start(shape, rates, weights, curve), np.inf)
    parameters = solve(free, _GAIN)
    return _Fit(model, float(parameters[0]), residuals(parameters))


def _shape(model: Model, times: Values) -> tuple[Callable[[float], Values], Values]:
    """What is still to come as a function of a rate, 1 at the last step; and rates to try."""
    if model == "exponential":
        span = times[-1] - times[0] + 1
        rates = np.array([0.3, 0.7, 1.4, 3, 5, 8, 12, 20, 40, 80]) / span
        return lambda rate: np.exp(rate * (times[-1] - times)), rates
    return lambda rate: (times / times[-1]) ** -rate, np.array([0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3])


def _start(
    shape: Callable[[float], Values], rates: Values, weights: Values, curve: Values
) -> Values:
    """The best of a few rates; given the rate, the other parameters are linear."""
    starts = []
    for rate in rates:
        columns = np.stack([np.ones_like(curve), -shape(rate)], axis=1)
        linear = np.linalg.lstsq(columns * weights[:, None], curve * weights, rcond=None)[0]
        linear = np.clip(linear, 0, 1)
        error = float(np.sum(((columns @ linear - curve) * weights) ** 2))
        starts.append((error, (*linear, rate)))
    return np.array(min(starts)[1])
