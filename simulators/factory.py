"""The `@simulator` decorator: a function becomes a simulator, a class a factory that makes them."""

from __future__ import annotations

import functools
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from simulators.call import close_match, parameters_of
from simulators.prior import Prior
from simulators.prior_spec import prior_from
from simulators.simulator import LogLikelihood, PriorLike, Reference, Simulator, json_arguments


class SimulatorFactory(ABC):
    """Makes a simulator from its definition, given arguments and, if another is wanted, a prior."""

    def __init__(self, target: Any, prior: PriorLike | None, name: str | None, **options: Any):
        self.target, self.prior, self.options = target, prior, options
        self.name = name or target.__name__
        self.address = _address(target)
        self.__doc__, self.__name__ = target.__doc__, target.__name__
        self.__module__, self.__qualname__ = target.__module__, target.__qualname__

    def __repr__(self) -> str:
        return f"<factory of simulator {self.name}>"

    @abstractmethod
    def __call__(self, *, prior: PriorLike | None = None, **arguments: Any) -> Simulator:
        """Return a simulator; ValueError or TypeError for a bad prior or argument.

        References are dropped with another prior: they are draws from the posterior of their own.
        """

    def _defaults(self, own: Iterable[str] = ()) -> dict[str, Any]:
        """Arguments of the definition: what has a default that is JSON and no prior."""
        defaults: dict[str, Any] = {}
        for key, parameter in parameters_of(self.name, self.target).items():
            if key in own or parameter.default is parameter.empty:
                continue
            try:
                defaults |= json_arguments(self.name, {key: parameter.default})
            except TypeError:  # such a default is part of the source
                continue
        return defaults

    def _prior(self, given: PriorLike | None, own: PriorLike | None) -> tuple[Prior, bool]:
        """Return the prior to use and whether it is the definition's own."""
        if own is None:
            if given is None:
                raise ValueError(f"{self.name} has no prior of its own: give one")
            return prior_from(given), True
        own = prior_from(own)
        chosen = own if given is None else prior_from(given)
        return (own, True) if chosen == own else (chosen, False)

    def _made(
        self,
        model: Callable[..., Any],
        prior: Prior,
        arguments: dict[str, Any],
        options: dict[str, Any],
    ) -> Simulator:
        made = Simulator(
            model,
            prior,
            name=self.name,
            arguments=arguments,
            address=self.address,
            **options,
        )
        made.factory = self
        return made


class FunctionFactory(SimulatorFactory):
    """Makes simulators from a function; keywords with a default and no prior are its arguments."""

    def __call__(self, *, prior: PriorLike | None = None, **arguments: Any) -> Simulator:
        chosen, own = self._prior(prior, self.prior)
        valid = [
            key
            for key in parameters_of(self.name, self.target)
            if key not in (*chosen.names, "rng", "theta")
        ]
        for key in arguments:
            if key in chosen.names:
                raise ValueError(f"{self.name}: '{key}' has a prior, so it is not an argument")
        check_arguments(self.name, arguments, valid)
        defaults = self._defaults(chosen.names)
        resolved = defaults | json_arguments(self.name, arguments)
        changed = {key: arguments[key] for key in arguments if resolved[key] != defaults.get(key)}
        options = dict(self.options)
        if changed:  # functions of x (and theta) alone, which do not know the arguments
            options["references"] = options["log_likelihood"] = None
        if not own:
            options["references"] = None
        return self._made(
            functools.partial(self.target, **changed) if changed else self.target,
            chosen,
            resolved,
            options,
        )


class ClassFactory(SimulatorFactory):
    """Makes simulators from a class: the constructor takes the arguments, `simulate` runs.

    `prior`, `references`, `log_likelihood` and `observe` may be attributes of the instance, so that they can
    depend on the arguments.
    """

    def __call__(self, *, prior: PriorLike | None = None, **arguments: Any) -> Simulator:
        check_arguments(self.name, arguments, parameters_of(self.name, self.target))
        resolved = self._defaults() | json_arguments(self.name, arguments)
        instance = self.target(**arguments)
        chosen, own = self._prior(prior, getattr(instance, "prior", self.prior))
        options = dict(self.options)
        for key in ("references", "log_likelihood", "observe"):
            options[key] = getattr(instance, key, options[key])
        if not own:
            options["references"] = None
        if not callable(getattr(instance, "simulate", None)):
            raise TypeError(f"{self.name}: a simulator class needs a method simulate(..., rng)")
        return self._made(
            instance.simulate,
            chosen,
            resolved,
            options,
        )


class _Decorator:
    """What `@simulator(...)` returns."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def __call__(self, target: Callable[..., Any]) -> Any:
        if isinstance(target, type):
            return ClassFactory(target, **self.options)
        factory = FunctionFactory(target, **self.options)
        return factory() if factory.prior is not None else factory


def simulator(
    *,
    prior: PriorLike | None = None,
    name: str | None = None,
    version: str = "1",
    batched: bool = False,
    ragged: Iterable[str] = (),
    references: Mapping[str, Reference] | None = None,
    log_likelihood: LogLikelihood | None = None,
    observe: Callable[..., Any] | None = None,
    files: Iterable[str] = (),
) -> _Decorator:
    """Make a simulator of a function, or a factory that makes simulators of a class.

        @simulator(prior={"mu": Uniform(-3, 3), "sigma": LogUniform(0.1, 2)})
        def my_model(mu, sigma, rng):
            return {"x": rng.normal(mu, sigma, 10)}

    The arguments are those of `Simulator`; `name` is the function's or the class's by default. A
    function without a prior gives a factory too, which is called with a prior.
    """
    return _Decorator(
        prior=prior,
        name=name,
        version=version,
        batched=batched,
        ragged=ragged,
        references=references,
        log_likelihood=log_likelihood,
        observe=observe,
        files=files,
    )


def check_arguments(name: str, arguments: Mapping[str, Any], valid: Iterable[str]) -> None:
    """Raise TypeError naming an argument that is not among the valid ones."""
    known = list(valid)
    for key in arguments:
        if key not in known:
            listed = ", ".join(known) or "none"
            hint = close_match(key, known)
            raise TypeError(f"{name} has no argument '{key}'{hint} (valid: {listed})")


def _address(target: Any) -> str:
    if "<" in target.__qualname__:  # defined inside a function: no name leads to it
        return ""
    if target.__module__ != "__main__":
        return f"{target.__module__}:{target.__qualname__}"
    file = getattr(sys.modules["__main__"], "__file__", None)
    return f"{Path(file).resolve()}:{target.__qualname__}" if file else ""
