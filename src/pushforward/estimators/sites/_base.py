"""What a strategy for one random site is.

A site draws z from a distribution whose parameters theta depend on what is learned. Whatever the rest of the program
does with z, it turns it into outcomes F(z); a strategy estimates the gradient of E[F(z)] with respect to theta.
Strategies know one distribution and one function, never a program, so each can be checked on its own by quadrature.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
from jaxtyping import Array

from ...models._types import Key

Outcome = Callable[[Array], Array]
"""The objective as a function of the site's value, everything else held fixed (same keys). Either a scalar, or, where
the site lies in plates and the objective is a sum over them, one value per plate element, shaped like the plates: then
all elements can be varied at once, because element n of the value reaches outcome n only."""


class AbstractSiteStrategy(eqx.Module):
    """How the gradient reaches the parameters of one random site."""

    pathwise: ClassVar[bool] = False
    """Whether `draw` is differentiable in the distribution's parameters, so that the gradient of the objective through
    the value is (part of) the answer and is kept."""
    bias: ClassVar[str] = ""
    """Why the gradient is biased; empty where it is not."""

    @abc.abstractmethod
    def draw(self, key: Key, fn: Any) -> Array:
        """Draw the site's value. Differentiable in the parameters of ``fn`` where ``pathwise``, else a constant."""

    @abc.abstractmethod
    def surrogate(self, key: Key, fn: Any, value: Array, outcome: Outcome, current: Array) -> Array:
        """A scalar whose gradient with respect to the parameters of ``fn`` is what the pathwise part leaves out.

        Args:
            key: the key that `draw` was given (a strategy may need its noise again; fresh noise comes from
                ``fold_in(key, 1)`` and so on).
            fn: a NumPyro distribution, differentiable in its parameters.
            value: what `draw` returned, a constant.
            outcome: F as a function of the value; differentiable in it where F is. It returns constants as far as the
                parameters of ``fn`` are concerned.
            current: ``outcome(value)``, minus a baseline where the engine has one.

        Returns:
            A scalar. Only its gradient counts, not its value.
        """

    def steps(self, key: Key, fn: Any, value: Array, outcome: Outcome, current: Array) -> AbstractSiteStrategy | None:
        """What to subtract from the strategy's own inexact leaves: numbers that it learns, such as a temperature.

        Called like `surrogate`, with constants. The mean over particles of what is returned belongs at the strategy's
        place among the estimator's own steps (`Parameters.estimator`); the gradient is unbiased without it.

        Returns:
            Finished steps, shaped like the strategy; None if it learns nothing.
        """
        return None

    def differentiates(self, fn: Any) -> bool:
        """Whether `surrogate` takes derivatives of the outcome in the value, so that the outcome must not jump."""
        return False

    def check(self, name: str, fn: Any) -> None:
        """Refuse a distribution that the strategy cannot differentiate.

        Raises:
            ValueError: naming the site, the distribution, the reason and a strategy that works.
        """
