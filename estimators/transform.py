"""Standardisation, and the maps between bounded parameters and the space an estimator works in.

An estimator sees u = (g(v) - mean) / spread with v = theta, or v = log theta for a parameter whose scale
is "log", and g chosen by name for parameters with bounds a < v < b:

    reflect   g(v) = v; a draw outside of the prior's bounds is reflected at the bound
    clip      g(v) = v; a draw outside of them is set to the bound: for parameters that often lie on it
    probit    g(v) = Phi^-1((v - a) / (b - a)): a uniform prior of v becomes normal
    logit     g(v) = log((v - a) / (b - v))

Probit and logit are bijections, so that a density keeps its exact Jacobian; a parameter with one
bound takes log(v - a) or -log(b - v). Reflecting and clipping leave the geometry as it is but are
no bijections. Draws lie inside the bounds by construction: nothing is ever rejected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from estimators.checks import suggest

MARGIN = (
    1e-6  # smallest distance to a bound, as a fraction of the interval: float32 resolves no less
)
SCALES = ("linear", "log")
TINY = 1e-37  # float32 still holds its logarithm's argument without losing digits
ROWS = 65_536  # converted to float64 at a time
IMAGE = 8  # elements along two axes that make an array an image
LIMIT = 1e3  # standardised inputs are clamped here, so that an outlier cannot overflow a network


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation over the rows of values (n, ...)."""
    parts = values.split(ROWS)  # float64 copies of all rows would be the peak of memory
    mean = torch.stack([part.double().sum(dim=0) for part in parts]).sum(0) / len(values)
    square = torch.stack([(part.double() - mean).square().sum(dim=0) for part in parts]).sum(0)
    return mean, torch.sqrt(square / len(values))


def quantiles(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the median and half the width of the central 68.27 % over the rows of values (n, ...).

    Of normal values these are mean and standard deviation, and a share of outliers hardly changes them. An
    element with more than two thirds of its values equal has no such width and takes its moments.
    """
    flat = values.flatten(1)
    at = [round(share * (len(flat) - 1)) for share in (0.158655, 0.5, 0.841345)]
    columns = max(1, 2**22 // len(flat))  # sorted at a time
    chosen = [part.sort(dim=0).values[at].double() for part in flat.split(columns, dim=1)]
    low, middle, high = torch.cat(chosen, dim=1).view(3, *values.shape[1:])
    mean, deviation = moments(values)
    spread, none = (high - low) / 2, high == low
    return torch.where(none, mean, middle), torch.where(none, deviation, spread)


STANDARDISATIONS = {"moments": moments, "robust": quantiles}


class Standardizer(nn.Module):
    """Maps values to centre 0 and spread 1, element by element, or with one of each for a group of elements.

    `method`, one of STANDARDISATIONS, says what they are: mean and standard deviation, or median and half
    the width of the central 68.27 %. `groups` holds the number of each element's group, shape `shape`; None:
    each element has its own.

    Arguments:
        shape: shape of one mean; a constant element or group gets the scale 1.
    """

    mean: Tensor
    scale: Tensor
    method = "moments"
    groups: Tensor | None = None

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(shape))

    def fit(self, values: Tensor) -> None:
        """Take centre and scale from values of shape (n, *shape)."""
        if self.groups is None:
            mean, scale = self._fitted(values)
        else:
            mean, scale = (torch.empty(self.mean.shape, dtype=torch.float64) for _ in range(2))
            for group in self.groups.unique():
                members = self.groups == group
                mean[members], scale[members] = self._fitted(values[:, members].reshape(-1, 1))
        self.mean.copy_(mean)
        self.scale.copy_(scale)

    def _fitted(self, values: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale = STANDARDISATIONS[self.method](values)
        # Rounding leaves a constant element a tiny spread; what float32 cannot resolve is noise.
        constant = scale <= 1e-6 * mean.abs() + 1e-30
        return mean, torch.where(constant, 1.0, scale)

    def forward(self, values: Tensor) -> Tensor:
        return (values - self.mean) / self.scale

    def inverse(self, values: Tensor) -> Tensor:
        return self.mean + self.scale * values


def is_image(shape: Sequence[int]) -> bool:
    """Return whether an array of a shape is taken for an image: two axes of at least 8 elements."""
    return sum(length >= IMAGE for length in shape) >= 2


class ParameterTransform(nn.Module):
    """The map theta -> u of the parameters, see the module's text.

    Arguments:
        low, high: bounds of theta, shape (D,); -inf and inf where there is none.
        log: which parameters have the scale "log", bool (D,); None: none.
    """

    bijective = True
    theta_low: Tensor
    theta_high: Tensor
    log: Tensor
    low: Tensor  # bounds of v
    high: Tensor
    has_low: Tensor
    has_high: Tensor

    def __init__(self, low: Tensor, high: Tensor, log: Tensor | None = None) -> None:
        super().__init__()
        log = torch.zeros(low.shape, dtype=torch.bool) if log is None else log
        self.standard = Standardizer(low.shape)
        self.any_log = bool(log.any())
        self._constant("log", log)
        self._constant("theta_low", round_inward(low, math.inf))
        self._constant("theta_high", round_inward(high, -math.inf))
        low = torch.where(log, low.clamp_min(0).log(), low)
        high = torch.where(log, high.log(), high)
        self._constant("low", round_inward(low, math.inf))
        self._constant("high", round_inward(high, -math.inf))
        self._constant("has_low", low.isfinite())
        self._constant("has_high", high.isfinite())

    def fit(self, theta: Tensor) -> None:
        """Standardise by training parameters of shape (n, D)."""
        self.standard.fit(self.unbound(self.scaled(theta)))

    def forward(self, theta: Tensor) -> Tensor:
        """Return u of shape (..., D)."""
        return self.standard(self.unbound(self.scaled(theta)))

    def inverse(self, u: Tensor) -> Tensor:
        """Return theta of shape (..., D), within the bounds."""
        return self.natural(self.bound(self.standard.inverse(u)))

    def natural(self, v: Tensor) -> Tensor:
        """Return theta of v, both (..., D); what lies beyond a bound is set to it."""
        v = torch.minimum(torch.maximum(v, self.low), self.high)
        theta = torch.where(self.log, v.exp(), v)
        return torch.minimum(torch.maximum(theta, self.theta_low), self.theta_high)

    def contains(self, theta: Tensor) -> Tensor:
        """Return whether theta (..., D) lies within the bounds, shape (...)."""
        inside = (theta >= self.theta_low) & (theta <= self.theta_high)
        return (inside & ~(self.log & (theta <= 0))).all(-1)

    def log_abs_det(self, theta: Tensor) -> Tensor:
        """Return log |det du/dtheta|, shape (...)."""
        v = self.scaled(theta)
        slope = self.log_slope(v) - torch.where(self.log, v, 0.0)
        return (slope - self.standard.scale.log()).sum(-1)

    def scaled(self, theta: Tensor) -> Tensor:
        """Return v of shape (..., D)."""
        if not self.any_log:
            return theta
        return torch.where(self.log, theta.clamp_min(TINY).log(), theta)

    def unbound(self, v: Tensor) -> Tensor:
        """Return g(v)."""
        raise NotImplementedError

    def bound(self, value: Tensor) -> Tensor:
        """Return the inverse of g."""
        raise NotImplementedError

    def log_slope(self, v: Tensor) -> Tensor:
        """Return log dg/dv per parameter, shape (..., D)."""
        raise NotImplementedError

    def _constant(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)


class Reflect(ParameterTransform):
    """Leaves parameters as they are and reflects draws at the prior's bounds."""

    def __init__(self, low: Tensor, high: Tensor, log: Tensor | None = None) -> None:
        super().__init__(low, high, log)
        self.bijective = not bool((self.has_low | self.has_high).any())

    def unbound(self, v: Tensor) -> Tensor:
        return v

    def bound(self, value: Tensor) -> Tensor:
        width = self.high - self.low
        turn = torch.remainder(value - self.low, 2 * width)
        box = self.low + torch.minimum(turn, 2 * width - turn)
        above = torch.where(self.has_low, self.low + (value - self.low).abs(), value)
        below = torch.where(self.has_high, self.high - (self.high - value).abs(), above)
        return torch.where(self.has_low & self.has_high, box, below)

    def log_slope(self, v: Tensor) -> Tensor:
        return torch.zeros_like(v)


class Clip(Reflect):
    """Leaves parameters as they are and sets draws outside of the prior's bounds to the bound."""

    def bound(self, value: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(value, self.low), self.high)


class Squash(ParameterTransform):
    """A bijection from the box to the line: `quantile` for two bounds, a logarithm for one."""

    def unbound(self, v: Tensor) -> Tensor:
        both = self.quantile(self._share(v))
        above = self._gap(v - self.low).log()
        below = -self._gap(self.high - v).log()
        return self._select(both, above, below, v)

    def bound(self, value: Tensor) -> Tensor:
        both = self.low + (self.high - self.low) * self.probability(value)
        above = self.low + value.exp()
        below = self.high - (-value).exp()
        return self._select(both, above, below, value)

    def log_slope(self, v: Tensor) -> Tensor:
        both = self.log_quantile_slope(self._share(v)) - (self.high - self.low).log()
        above = -self._gap(v - self.low).log()
        below = -self._gap(self.high - v).log()
        return self._select(both, above, below, torch.zeros_like(v))

    def quantile(self, p: Tensor) -> Tensor:
        raise NotImplementedError

    def probability(self, value: Tensor) -> Tensor:
        raise NotImplementedError

    def log_quantile_slope(self, p: Tensor) -> Tensor:
        raise NotImplementedError

    def _share(self, v: Tensor) -> Tensor:
        return ((v - self.low) / (self.high - self.low)).clamp(MARGIN, 1 - MARGIN)

    def _gap(self, distance: Tensor) -> Tensor:
        return distance.clamp_min(1e-30)

    def _select(self, both: Tensor, above: Tensor, below: Tensor, free: Tensor) -> Tensor:
        one = torch.where(self.has_low, above, torch.where(self.has_high, below, free))
        return torch.where(self.has_low & self.has_high, both, one)


class Probit(Squash):
    """g = the normal quantile of v's place between its bounds."""

    def quantile(self, p: Tensor) -> Tensor:
        return torch.special.ndtri(p)

    def probability(self, value: Tensor) -> Tensor:
        return torch.special.ndtr(value)

    def log_quantile_slope(self, p: Tensor) -> Tensor:
        return 0.5 * self.quantile(p).square() + 0.5 * math.log(2 * math.pi)


class Logit(Squash):
    """g = the logistic quantile of v's place between its bounds."""

    def quantile(self, p: Tensor) -> Tensor:
        return torch.logit(p)

    def probability(self, value: Tensor) -> Tensor:
        return torch.sigmoid(value)

    def log_quantile_slope(self, p: Tensor) -> Tensor:
        return -(p * (1 - p)).log()


BOUNDS: dict[str, type[ParameterTransform]] = {
    "clip": Clip,
    "logit": Logit,
    "probit": Probit,
    "reflect": Reflect,
}


def parameter_transform(
    bounds: str, low: Tensor, high: Tensor, log: Tensor | None = None
) -> ParameterTransform:
    """Return the transform called `bounds`, see `ParameterTransform` for the arguments.

    Raises:
        LookupError: there is none of this name.
    """
    if bounds not in BOUNDS:
        raise LookupError(f"unknown bounds {bounds!r}{suggest(bounds, BOUNDS)}")
    return BOUNDS[bounds](low, high, log)


def standardise_by(module: nn.Module, method: str, *, grouped: bool = True) -> None:
    """Let all standardisation in a module be done by a method, one of STANDARDISATIONS.

    Arguments:
        grouped: whether groups of elements keep one centre and scale; if not, each element has its own.

    Raises:
        LookupError: there is none of this name.
    """
    if method not in STANDARDISATIONS:
        raise LookupError(f"unknown standardisation {method!r}{suggest(method, STANDARDISATIONS)}")
    for part in module.modules():
        if isinstance(part, Standardizer):
            part.method = method
            part.groups = part.groups if grouped else None


def round_inward(bound: Tensor, towards: float) -> Tensor:
    """Return float32 bounds that do not lie outside the float64 ones."""
    single = bound.float()
    outside = single < bound if towards > 0 else single > bound
    return torch.where(outside, torch.nextafter(single, torch.full_like(single, towards)), single)
