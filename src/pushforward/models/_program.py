"""What a front end hands over: a compiled probabilistic program.

`Target` is the one class that algorithms see; it asks everything of an `AbstractProgram`. A front end (NumPyro, Pyro, a
plain function) is one final subclass and one ``from_*`` function.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._types import Batch, Key, Position, Values


class Plate(NamedTuple):
    """A plate of the program: conditionally independent along one axis."""

    name: str
    size: int
    dim: int
    """Negative batch dimension that the plate owns."""
    subsample_size: int | None = None
    """Minibatch size declared by the program, or None when the plate is always full."""


class Site(NamedTuple):
    """Static description of one site, at full (not subsampled) size."""

    name: str
    kind: Literal["latent", "discrete", "observed", "factor", "deterministic", "enumerated"]
    """``"discrete"`` is a discrete latent that is not summed out: only a program guide can provide it."""
    shape: tuple[int, ...]
    """Shape of the value in the user's space (log-probability shape for a factor)."""
    unconstrained_shape: tuple[int, ...] | None = None
    """Shape of the site's entry in a position (a discrete site's entry is its value); None unless it is latent."""
    plates: tuple[Plate, ...] = ()
    event_dim: int = 0
    """Number of rightmost axes of the value that belong to one event."""
    support: str = "real"
    """Human-readable support, for messages and tables."""
    auxiliary: bool = False
    """Whether a guide draws the site for its own purposes: the model has no site of this name."""


class Term(NamedTuple):
    """One factor of the joint density, before reduction."""

    log_prob: Array
    """Masked but unscaled log-probability; shape is the site's batch shape (enumerated dims on the left)."""
    scale: Array | float = 1.0
    """Multiplier from plate subsampling and from scale handlers; broadcasts against ``log_prob``."""
    total: Array | None = None
    """Sum of ``log_prob``, where the family has a cheaper way to it than summing."""


class Evaluation(NamedTuple):
    """Everything that one run of the program at one position produces. Unused parts cost nothing under jit."""

    values: Values
    """Latent sites in the user's space."""
    deterministics: Values
    terms: dict[str, Term]
    """Latent (except improper, which contribute zero), observed, factor and enumerated sites."""
    log_dets: dict[str, Array]
    """Scalar log |d value / d position| per latent site, plate scale included."""


class AbstractProgram(eqx.Module):
    """A probabilistic program, compiled: static description plus pure functions of a position.

    A pytree: data and learnable parameters are array leaves, so a program can be passed through ``jit`` without being
    baked into the compiled code.
    """

    params: eqx.AbstractVar[dict[str, Any]]
    """Learnable parameters on unconstrained space, by name (empty when the program has none)."""
    sites: eqx.AbstractVar[tuple[Site, ...]]
    plates: eqx.AbstractVar[tuple[Plate, ...]]
    enumerated: eqx.AbstractVar[tuple[tuple[str, int, int], ...]]
    """Marginalised discrete sites: (name, negative dim left of every plate, cardinality)."""
    source: eqx.AbstractVar[str]
    """Where the program came from, for messages: ``"numpyro:eight_schools"``."""
    traceable_simulation: eqx.AbstractClassVar[bool]
    """Whether ``simulate`` may be jitted and vmapped (False when it runs on the host)."""

    @abc.abstractmethod
    def evaluate(self, position: Position, batch: Batch | None = None) -> Evaluation:
        """Run the program at a position. Pure and traceable.

        Args:
            position: ``{latent site: unconstrained array}`` at full size, also for latents inside a subsampled plate.
            batch: indices per subsampled plate; None runs every plate at full size with scale one.
        """

    @property
    def latents(self) -> tuple[Site, ...]:
        """The sites that a position gives values to."""
        return tuple(s for s in self.sites if s.kind in ("latent", "discrete"))

    def evaluate_values(self, values: Values, batch: Batch | None = None) -> Evaluation:
        """Run the program at given values of its latents; no change of variables is recorded where it can be avoided.

        Args:
            values: latent sites in the user's space; with a batch, sites inside a subsampled plate at minibatch size.
            batch: indices per subsampled plate.
        """
        position, _ = self.invert(values, batch)
        return self.evaluate(self.embed(position, batch), batch)

    def embed(self, position: Position, batch: Batch | None) -> Position:
        """Put local latents of a minibatch at their places in a full-size position (zero elsewhere, never read)."""
        if batch is None:
            return position
        out = dict(position)
        for site in self.latents:
            for plate in site.plates:
                value = out[site.name]
                axis = len(site.shape) + plate.dim - site.event_dim
                if plate.name in batch and value.shape[axis] != plate.size:
                    shape = value.shape[:axis] + (plate.size,) + value.shape[axis + 1 :]
                    index = (slice(None),) * axis + (batch[plate.name],)
                    out[site.name] = jnp.zeros(shape, value.dtype).at[index].set(value)
        return out

    def check_position(self, position: Position, batch: Batch | None = None) -> None:
        """Refuse a position of the wrong structure; looks at names and shapes only.

        Raises:
            ValueError: naming the site and what was expected.
        """
        expected = {s.name: s.unconstrained_shape or () for s in self.latents}
        remedy = "Positions come from target.initial(key), or from target.unconstrain(values)."
        if not isinstance(position, Mapping):
            raise ValueError(
                f"The position is a {type(position).__name__}: expected {{site: unconstrained array}} for the latent "
                f"sites {sorted(expected)}. {remedy}"
            )
        if set(position) != set(expected):
            raise ValueError(
                f"The position has sites {sorted(position)}: expected exactly the latent sites {sorted(expected)}. "
                f"{remedy}"
            )
        for name, shape in expected.items():
            # With a batch, local sites may come at minibatch size.
            if batch is None and np.shape(position[name]) != tuple(shape):
                raise ValueError(
                    f"The position of site '{name}' has shape {np.shape(position[name])}: expected {tuple(shape)}, its "
                    f"unconstrained shape. {remedy}"
                )

    @abc.abstractmethod
    def unconstrain(self, values: Mapping[str, Any]) -> Position:
        """Map values of the latent sites in the user's space to a position. Inverse of ``evaluate(...).values``.

        Raises:
            ValueError: naming the site, if a value is missing, has the wrong shape or lies outside the support.
        """

    @abc.abstractmethod
    def invert(self, values: Values, batch: Batch | None = None) -> tuple[Position, dict[str, Array]]:
        """Positions and scalar log-dets (as in `Evaluation`) of latent values, without checks. Pure and traceable.

        Args:
            values: latent sites in the user's space; with a batch, sites inside a subsampled plate at minibatch size.
            batch: indices per subsampled plate. The position then has minibatch size along these plates as well.
        """

    @abc.abstractmethod
    def simulate(self, key: Key, values: Values | None = None) -> Values:
        """Draw every site of the program, observed ones included, from the generative process.

        Args:
            key: a key; equal keys give equal draws.
            values: latent sites to hold fixed (posterior predictive); None draws them from the prior.

        Returns:
            Latent, observed and deterministic sites by name, at full size.

        Raises:
            ValueError: naming the site, if a site that must be drawn is improper.
        """

    @abc.abstractmethod
    def param_values(self) -> dict[str, Any]:
        """The learnable parameters in the user's space."""

    @abc.abstractmethod
    def observed(self) -> Values:
        """Observed data by site name, at full size."""

    @abc.abstractmethod
    def constants(self, observed: Values) -> Values:
        """Array arguments that are not observed sites (design matrices, group indices), by argument name."""

    @abc.abstractmethod
    def with_params(self, params: dict[str, Any]) -> AbstractProgram:
        """The same program with other (unconstrained) learnable parameters."""

    @abc.abstractmethod
    def initial_params(self, key: Key) -> dict[str, Any]:
        """Fresh unconstrained initial values of the learnable parameters; random only where the program says so."""

    @abc.abstractmethod
    def condition(self, values: Mapping[str, Any]) -> AbstractProgram:
        """The same program with the data of its observed sites replaced by ``values``.

        Raises:
            ValueError: naming the site, if it is not an observed site or the shape differs.
        """

    @abc.abstractmethod
    def rebind(self, *args: Any, **kwargs: Any) -> AbstractProgram:
        """The same program and learnable parameters with other arguments (other data), for prediction.

        Sites whose data is now None are no longer observed: they are left to ``simulate`` and are not latent.
        """
