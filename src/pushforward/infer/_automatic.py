"""Which gradient estimator to use: what the user gave, or the best of those that apply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..estimators import AbstractGradient, AbstractObjective, Path, Reparam, gradients
from ..estimators.gradients import Adaptive, Score
from ..models import Target
from ..models.guides import AbstractGuide

if TYPE_CHECKING:
    from ._posterior import Posterior


def resolve_gradient(
    gradient: Any, guide: AbstractGuide, objective: AbstractObjective, name: str = "gradient"
) -> AbstractGradient:
    """An estimator for a guide from itself, its class, strategies per site, or ``"auto"``.

    Raises:
        ValueError: if it is none of these.
    """
    if isinstance(gradient, str) and gradient == "auto":
        return gradients.resolve_gradient(None, guide, objective) if objective.sleeps else Adaptive()
    return gradients.resolve_gradient(gradient, guide, objective, name)


def applicable(
    objective: AbstractObjective,
    target: Target,
    guide: AbstractGuide,
    num_particles: int,
    candidates: Sequence[AbstractGradient],
) -> list[AbstractGradient]:
    """Those candidates that do not refuse the combination.

    Raises:
        ValueError: if all refuse, with the first one's reason.
    """
    found, refusals = [], []
    for gradient in candidates:
        try:
            gradient.check(objective, target, guide, num_particles)
        except ValueError as error:
            refusals.append(error)
        else:
            found.append(gradient)
    if not found:
        raise refusals[0]
    return found


def automatic_gradient(
    objective: AbstractObjective, target: Target, guide: AbstractGuide, num_particles: int
) -> tuple[AbstractGradient, str]:
    """What ``gradient="auto"`` stands for, and why.

    Where `Path` and `Reparam` both apply, `Adaptive` mixes them by what is measured along the way; otherwise the first
    that applies of `Reparam`, `Score` with leave-one-out and `Score` with a running mean.
    """
    if objective.sleeps:
        return gradients.resolve_gradient(None, guide, objective), "Sleep: simulated draws leave maximum likelihood"
    if guide.point:
        return Reparam(), "Reparam: a point mass has no log q, so all pathwise gradients are one"
    candidates = (Adaptive(), Path(), Reparam(), Score(), Score("average"))
    chosen = applicable(objective, target, guide, num_particles, candidates)[0]
    if isinstance(chosen, Adaptive):
        return chosen, "Adaptive: Path and Reparam both apply and are mixed by their measured variances"
    return chosen, f"{type(chosen).__name__}: what less noisy estimators need does not hold here"


def note_choice(posterior: Posterior, gradient: AbstractGradient, reason: str) -> None:
    """Write into a fitted posterior which estimator was chosen and why, with what was measured until the end."""
    if isinstance(gradient, Adaptive):
        best = int(posterior.data["optimization"]["best_restart"])
        numbers = jax.tree.map(lambda x: jnp.asarray(x[best]), posterior.state.parameters.estimator)
        figures = {k: float(v) for k, v in jax.device_get(eqx.combine(numbers, gradient).judgement()).items()}
        better = "Path" if figures["path"] <= figures["reparam"] else "Reparam"
        reason = (
            f"{reason}. Over the last steps the gradient's variance was about {figures['path']:.2g} for Path, "
            f"{figures['reparam']:.2g} for Reparam ({better} is the less noisy) and {figures['adaptive']:.2g} for the "
            f"mixture."
        )
        posterior.data.attrs["gradient_variances"] = [figures[name] for name in ("path", "reparam", "adaptive")]
    posterior.data.attrs["gradient_choice"] = reason
    posterior.diagnose()
