"""What an objective is."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import equinox as eqx
from jaxtyping import Array, Float


class AbstractObjective(eqx.Module):
    """A scalar function F of K log-weights l_k = log p(z_k, data) - log q(z_k), z_k drawn from the guide q.

    A lower bound on log p(data) is maximised, an upper bound minimised. Guide and model parameters usually follow the
    same F; where they must not (model parameters cannot follow an upper bound), `guide_gain` and `model_gain` differ.
    """

    fixed_draws: ClassVar[bool] = False
    """Whether the guide follows ``guide_gain`` with the law of its draws held fixed (wake phase of wake-sleep): its
    gradient is the sum of F_k times the derivative of l_k at fixed z_k, no longer the gradient of an expectation."""

    draws: ClassVar[Any] = None
    """Positions drawn from the posterior that take the place of draws of the guide (see `ForwardKL`), or None."""

    @abc.abstractmethod
    def __call__(self, log_weights: Float[Array, " k"]) -> Float[Array, ""]:
        """The value to report, in nats."""

    @property
    def upper(self) -> bool:
        """Whether the value is an upper bound on log p(data)."""
        return False

    @property
    def label(self) -> str:
        """What messages and tables call it."""
        return type(self).__name__

    @property
    def sleeps(self) -> bool:
        """Whether the guide learns from latents and data that are simulated (sleep phase, see `ForwardKL`)."""
        return False

    @property
    def default_particles(self) -> int:
        """Draws per step that suit the objective, where the user asks for no number."""
        return 8

    @property
    def smooth(self) -> bool:
        """Whether the first derivatives of F are continuous, which the path gradient takes for granted.

        Where F_k jumps (at a minimum or a sort), the second derivatives miss the jump and `Path` would be biased.
        """
        return True

    def check(self, num_particles: int) -> None:
        """Refuse a number of draws with which the guide would not approach the posterior.

        Raises:
            ValueError: saying why, and what to use instead.
        """

    def guide_gain(self, log_weights: Float[Array, " k"]) -> Float[Array, ""]:
        """What the guide's parameters maximise: the value, or minus it for an upper bound."""
        return -self(log_weights) if self.upper else self(log_weights)

    @property
    def guide_power(self) -> tuple[float, float] | None:
        """``(a, p)`` where ``guide_gain`` is ``a * log_power_mean(log_weights, p)``: its derivatives then cost O(K).

        None for any other function, whose derivatives are found by automatic differentiation in O(K^2).
        """
        return None

    def model_gain(self, log_weights: Float[Array, " k"]) -> Float[Array, ""]:
        """What the model's learnable parameters maximise; a lower bound on log p(data)."""
        return self.guide_gain(log_weights)

    def guide_loss(self, log_weights: Float[Array, " k"]) -> Float[Array, ""]:
        """What the guide's steps make smaller, to be watched for convergence: minus its gain."""
        return -self.guide_gain(log_weights)

    @property
    def common(self) -> bool:
        """Whether guide and model parameters follow the same function."""
        return type(self).model_gain is AbstractObjective.model_gain and not self.fixed_draws
