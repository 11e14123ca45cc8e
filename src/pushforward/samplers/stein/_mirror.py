"""Mirror maps: the coordinates in which particles of a constrained density move freely."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...models import Target
from ...models._layout import Layout
from ...models._types import Batch
from ..pairs._distance import product


class Part(NamedTuple):
    """The coordinates of one latent site."""

    name: str
    map: Literal["identity", "positive", "box", "simplex"]
    dual: int
    """Where its dual coordinates start; they are as many as those of the position."""
    primal: int
    """Where its primal coordinates start."""
    blocks: int
    """Number of simplices; 1 for the other maps."""
    size: int
    """Primal coordinates per block."""


class Primal(NamedTuple):
    """Constrained particles, and ``J = d primal / d dual`` at them: ``diag(slope) - root root'`` per simplex."""

    points: Float[Array, "n m"]
    slope: Float[Array, "n m"]
    root: Float[Array, "n m"]
    """Zero outside simplices."""


class Mirror(eqx.Module):
    """A mirror map per latent site, by its support.

    ========================  =============================================  =====================================
    support                   primal                                         dual (gradient of the potential)
    ========================  =============================================  =====================================
    simplex                   probabilities                                  log-ratios to the last (entropy)
    positive, greater than    distance from the bound                        logarithm (entropy)
    interval                  share of the interval                          log-odds (entropy of both ends)
    any other                 unconstrained coordinates of the site          the same (half the squared norm)
    ========================  =============================================  =====================================

    Dual vectors have the dimension of positions.
    """

    parts: tuple[Part, ...] = eqx.field(static=True)

    @classmethod
    def of(cls, target: Target, layout: Layout) -> Mirror:
        """The maps of a target's sites.

        Raises:
            ValueError: if a simplex lies in a subsampled plate.
        """
        supports = {s.name: s for s in target.program.latents}
        parts: list[Part] = []
        dual = primal = 0
        for name, shape in zip(layout.names, layout.shapes, strict=True):
            kind = _map_of(supports[name].support) if name in supports else "identity"
            count = math.prod(shape)
            if kind == "simplex":
                if any(p.subsample_size is not None for p in supports[name].plates):
                    raise ValueError(
                        f"The simplex site '{name}' lies in a subsampled plate: mirrored samplers move all of it in "
                        "every step. Expected a global simplex, a full plate, or a sampler on unconstrained space."
                    )
                blocks, size = math.prod(shape[:-1]), shape[-1] + 1
            else:
                blocks, size = 1, count
            parts.append(Part(name, kind, dual, primal, blocks, size))
            dual, primal = dual + count, primal + blocks * size
        return cls(tuple(parts))

    @property
    def simplices(self) -> tuple[Part, ...]:
        """The sites that are simplices."""
        return tuple(p for p in self.parts if p.map == "simplex")

    def to_dual(self, position: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Dual coordinates of positions; computed with logarithms, so that tiny probabilities keep their digits."""
        for part in self.simplices:
            x = self._dual(part, position) - _balance(part.size, position.dtype)
            stay = jax.nn.log_sigmoid(-x)
            before = jnp.cumsum(stay, axis=-1)
            last = before[..., -1:]
            position = self._with(part, position, jax.nn.log_sigmoid(x) + before - stay - last)
        return position

    def to_position(self, dual: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Inverse of `to_dual`."""
        for part in self.simplices:
            logits = _closed(self._dual(part, dual))
            beyond = jax.lax.cumlogsumexp(logits, axis=logits.ndim - 1, reverse=True)[..., 1:]
            dual = self._with(part, dual, logits[..., :-1] - beyond + _balance(part.size, dual.dtype))
        return dual

    def primal(self, dual: Float[Array, "n d"]) -> Primal:
        """Primal coordinates and their derivatives."""
        points, slopes, roots = [], [], []
        for part in self.parts:
            if part.map == "simplex":
                x = jax.nn.softmax(_closed(self._dual(part, dual)), axis=-1).reshape(dual.shape[0], -1)
                slope, root = x, x
            else:
                u = dual[:, part.dual : part.dual + part.size]
                if part.map == "positive":
                    x = jnp.exp(u)
                    slope = x
                elif part.map == "box":
                    x = jax.nn.sigmoid(u)
                    slope = x * jax.nn.sigmoid(-u)
                else:
                    x, slope = u, jnp.ones_like(u)
                root = jnp.zeros_like(u)
            points.append(x)
            slopes.append(slope)
            roots.append(root)
        return Primal(*(jnp.concatenate(x, axis=1) for x in (points, slopes, roots)))

    def pull(self, full: Float[Array, "n m"]) -> Float[Array, "n d"]:
        """Leave out the last coordinate of each simplex, whose dual is fixed at zero."""
        kept = [np.arange(p.primal, p.primal + p.blocks * p.size).reshape(p.blocks, p.size) for p in self.parts]
        index = [k[:, :-1] if p.map == "simplex" else k for k, p in zip(kept, self.parts, strict=True)]
        return full[:, np.concatenate([i.ravel() for i in index])]

    def blockwise(self, part: Part, x: Float[Array, "n m"]) -> Float[Array, "blocks n size"]:
        """The primal coordinates of a simplex site, by simplex."""
        inside = x[:, part.primal : part.primal + part.blocks * part.size]
        return jnp.swapaxes(inside.reshape(x.shape[0], part.blocks, part.size), 0, 1)

    def pulled_differences(
        self, coefficient: Float[Array, "i j"], rows: Float[Array, "i m"], columns: Primal
    ) -> Float[Array, "i d"]:
        """``sum_j coefficient_ij J_j' (y_j - x_i)``; rows and columns may have any common origin."""
        slope, y = columns.slope, columns.points
        total = product(coefficient, slope * y) - rows * product(coefficient, slope)
        for part in self.simplices:
            root, inner = self.blockwise(part, columns.root), self.blockwise(part, y)
            along = root * jnp.sum(root * inner, axis=-1, keepdims=True)

            def one(block: tuple[Array, Array, Array]) -> Array:
                q, constant, x = block
                return product(coefficient, constant) - product(coefficient * product(x, q.T), q)

            change = jax.lax.map(one, (root, along, self.blockwise(part, rows)))
            flat = jnp.swapaxes(change, 0, 1).reshape(rows.shape[0], -1)
            total = total.at[:, part.primal : part.primal + flat.shape[1]].add(-flat)
        return self.pull(total)

    def metric(self, primal: Primal, vector: Float[Array, "n d"], damping: float | Array) -> Float[Array, "n d"]:
        """``(J + damping)^-1 vector``: J^-1 is the Hessian of the potential, here bounded by 1 / damping."""
        slope, root = self.pull(primal.slope), self.pull(primal.root)
        scaled = vector / (slope + damping)
        for part in self.simplices:
            inverse = 1.0 / (self._dual(part, slope) + damping)
            q, w = self._dual(part, root), self._dual(part, vector)
            # Sherman-Morrison; the probability of the last coordinate is 1 - sum(q).
            rest = 1.0 - jnp.sum(q, axis=-1) + jnp.sum(q * damping * inverse, axis=-1)
            rest = jnp.maximum(rest, jnp.finfo(rest.dtype).tiny)
            change = inverse * q * (jnp.sum(q * inverse * w, axis=-1) / rest)[..., None]
            scaled = scaled + self._with(part, jnp.zeros_like(scaled), change)
        return scaled

    def log_simplex(self, part: Part, dual: Float[Array, " d"]) -> Float[Array, "blocks size"]:
        """Logarithms of the probabilities of one particle's simplex site."""
        return jax.nn.log_softmax(_closed(self._dual(part, dual[None]))[0], axis=-1)

    def _dual(self, part: Part, x: Float[Array, "n d"]) -> Float[Array, "n blocks free"]:
        free = part.size - 1
        return x[:, part.dual : part.dual + part.blocks * free].reshape(x.shape[0], part.blocks, free)

    def _with(self, part: Part, x: Float[Array, "n d"], new: Array) -> Float[Array, "n d"]:
        flat = new.reshape(x.shape[0], -1)
        return x.at[:, part.dual : part.dual + flat.shape[1]].set(flat)


def dual_logdensity(
    mirror: Mirror, target: Target, layout: Layout, dual: Float[Array, " d"], batch: Batch | None
) -> Float[Array, ""]:
    """Log-density of dual coordinates, the change of variables included."""
    position = layout.unravel(mirror.to_position(dual[None])[0])
    if not mirror.simplices:
        return target.logdensity(position, batch)
    # The bijection of a simplex loses small probabilities; the density is evaluated at the values themselves.
    evaluation = target.program.evaluate(position)
    values = dict(evaluation.values)
    total = jnp.zeros((), dual.dtype)
    for part in mirror.simplices:
        log_values = mirror.log_simplex(part, dual)
        # Well above the smallest number, which exp and log do not return to each other.
        small = jnp.exp(jnp.maximum(log_values, jnp.log(jnp.finfo(dual.dtype).tiny) + 2.0))
        values[part.name] = small.reshape(values[part.name].shape)
        total = total + jnp.sum(log_values)
    for name, log_det in evaluation.log_dets.items():
        if name not in {p.name for p in mirror.simplices}:
            total = total + log_det
    for factor in target.factors(values, batch):
        total = total + (
            jnp.sum(factor.log_prob * factor.scale) if factor.total is None else factor.total * factor.scale
        )
    return total


def _map_of(support: str) -> Literal["identity", "positive", "box", "simplex"]:
    """The map for a support, as front ends name it."""
    name = support.lower().removeprefix("independentconstraint(").replace("_", "")
    if name.startswith("simplex"):
        return "simplex"
    if name.startswith(("positive(", "greaterthan", "nonnegative")) or name == "positive":
        return "positive"
    if name.startswith(("unitinterval", "interval", "openinterval", "halfopeninterval")):
        return "box"
    return "identity"


def _closed(dual: Float[Array, "*batch free"]) -> Float[Array, "*batch size"]:
    return jnp.concatenate([dual, jnp.zeros((*dual.shape[:-1], 1), dual.dtype)], axis=-1)


def _balance(size: int, dtype: jnp.dtype) -> Float[Array, " free"]:
    # The stick-breaking bijection is shifted so that zero is the centre of the simplex.
    return jnp.log(jnp.arange(size - 1, 0, -1).astype(dtype))
