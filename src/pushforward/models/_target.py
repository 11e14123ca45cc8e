"""The one kind of target that every algorithm sees."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._enumeration import Component, eliminate
from ._labels import check_labels, plain_labels, site_dims
from ._program import AbstractProgram, Evaluation, Site, Term
from ._subset import draw_subset
from ._types import Batch, Key, Position, Values
from ._weights import check_weights

_INITIAL_ATTEMPTS = 100
"""Rounds of redrawing before `Target.initial` gives up; the box shrinks from 2 to 0.02 over them."""


class Target(eqx.Module):
    """An unnormalised density on unconstrained space, plus the way back to the user's space.

    Built by `from_numpyro`, `from_pyro` or `from_logdensity`. A pytree: data, learnable parameters and site weights are
    leaves. A position is ``{latent site: unconstrained array}`` (any pytree for `from_logdensity`).
    """

    program: AbstractProgram
    weights: dict[str, Array]
    """Multipliers of the sites' log-probabilities; sites that are not named have weight one."""
    user_coords: tuple[tuple[str, tuple[Any, ...]], ...] = eqx.field(static=True)
    user_dims: tuple[tuple[str, tuple[str, ...]], ...] = eqx.field(static=True)
    fitted: bool = eqx.field(static=True)
    """Whether learnable parameters hold values that a fit has chosen."""

    def __init__(
        self,
        program: AbstractProgram,
        *,
        coords: Mapping[str, Any] | None = None,
        dims: Mapping[str, Any] | None = None,
        weights: Mapping[str, Any] | None = None,
        fitted: bool = False,
    ) -> None:
        self.program = program
        self.weights = {k: jnp.asarray(v, dtype=jnp.result_type(float)) for k, v in (weights or {}).items()}
        self.user_coords = tuple((k, plain_labels(v)) for k, v in (coords or {}).items())
        self.user_dims = tuple((k, (v,) if isinstance(v, str) else tuple(v)) for k, v in (dims or {}).items())
        self.fitted = fitted
        check_labels(self.program, self.dims, self.user_dims, self.user_coords)

    def __hash__(self) -> int:
        # By identity, so that jax.jit(target.logdensity) works although the leaves are arrays.
        return id(self)

    # -- densities ---------------------------------------------------------------------------------------------------

    def logdensity(self, position: Position, batch: Batch | None = None, *, jacobian: bool = True) -> Float[Array, ""]:
        """Log of the unnormalised density at a position.

        Args:
            position: a point of unconstrained space, as returned by `initial` or `unconstrain`.
            batch: indices per subsampled plate, as returned by `minibatch`; None uses all data. With a batch the value
                is an unbiased estimate of the full value, the program's own N/B scaling included.
            jacobian: include log |d value / d position|, so that this is the density of the position. False gives the
                density of the value, which is what a posterior mode in the user's space refers to.

        Returns:
            Scalar log-density in nats. Traceable; cost is one run of the program.

        Raises:
            ValueError: if the position has not the sites and shapes of this target.
        """
        evaluation = self._evaluate(position, batch)
        total = self._log_joint(evaluation)
        if jacobian:
            # The change of variables is geometry, not probability: site weights never touch it.
            for log_det in evaluation.log_dets.values():
                total = total + log_det
        return total

    def factors(self, values: Values, batch: Batch | None = None) -> list[Component]:
        """The factors of the joint density at values of the latents, before they are summed; site weights included.

        Args:
            values: latent sites in the user's space; with a batch, sites inside a subsampled plate at minibatch size.
            batch: indices per subsampled plate.

        Returns:
            Factors whose scaled sums add up to the log joint density of the values (no change of variables).
        """
        return self._components(self.program.evaluate_values(values, batch))

    def site_log_probs(self, position: Position, batch: Batch | None = None) -> dict[str, Array]:
        """Scaled log-probability of each site at a position, summed over the site; log-dets under ``jacobian:<site>``.

        Enumerated sites and the factors that depend on them are reported under their joined names. The values sum to
        `logdensity`.
        """
        evaluation = self._evaluate(position, batch)
        out: dict[str, Array] = {}
        for part in self._components(evaluation):
            name = "*".join(part.members)
            out[name] = out.get(name, 0.0) + jnp.sum(part.log_prob * part.scale)
        out.update({f"jacobian:{k}": v for k, v in evaluation.log_dets.items()})
        return out

    def log_likelihood(self, position: Position) -> Values:
        """Pointwise log-likelihood ``{observed site: array}`` over all data, unscaled by weights or handlers.

        Raises:
            ValueError: if an observed site shares an enumerated variable with another observed site or with other
                plates, so that its marginal likelihood has no pointwise form.
        """
        integrated = [s.name for s in self.program.sites if s.auxiliary]
        if integrated:
            raise ValueError(
                f"The pointwise log-likelihood does not exist: {self.program.source} integrates sites out together "
                f"with its observations (noise {integrated}). Expected these sites as latents of the model."
            )
        evaluation = self.program.evaluate(position)
        observed = {s.name for s in self.program.sites if s.kind == "observed"}
        if not self.program.enumerated:
            return {name: term.log_prob for name, term in evaluation.terms.items() if name in observed}
        out: Values = {}
        for part in eliminate(
            {k: Term(t.log_prob, 1.0) for k, t in evaluation.terms.items()}, self._site_table(), self.program.enumerated
        ):
            data = [m for m in part.members if m in observed]
            if not data:
                continue
            site = self._site_table()[data[0]]
            if len(data) > 1 or part.plates != frozenset(p.dim for p in site.plates):
                raise ValueError(
                    f"The pointwise log-likelihood of {data} does not exist: these observations are coupled through an "
                    f"enumerated site ({list(part.members)}). Expected one observed site per enumerated site, in the "
                    "same plates; compare such models by predictive scores instead of LOO."
                )
            out[data[0]] = jnp.reshape(part.log_prob, part.log_prob.shape[part.log_prob.ndim - _depth(site) :])
        return out

    def _evaluate(self, position: Position, batch: Batch | None = None) -> Evaluation:
        self.program.check_position(position, batch)
        return self.program.evaluate(position, batch)

    def _components(self, evaluation: Evaluation) -> list[Component]:
        terms = {
            name: Term(term.log_prob * self.weights[name], term.scale) if name in self.weights else term
            for name, term in evaluation.terms.items()
        }
        return eliminate(terms, self._site_table(), self.program.enumerated)

    def _log_joint(self, evaluation: Evaluation) -> Array:
        total = jnp.zeros((), jnp.result_type(float))
        for part in self._components(evaluation):
            total = total + (jnp.sum(part.log_prob * part.scale) if part.total is None else part.total * part.scale)
        return total

    def _site_table(self) -> dict[str, Site]:
        return {site.name: site for site in self.program.sites}

    # -- spaces ------------------------------------------------------------------------------------------------------

    def constrain(self, position: Position) -> Values:
        """Values in the user's space, deterministic sites included: ``{site: value}``."""
        evaluation = self._evaluate(position)
        return {**evaluation.values, **evaluation.deterministics}

    def unconstrain(self, values: Mapping[str, Any]) -> Position:
        """The position of given latent values. Deterministic sites among ``values`` are ignored.

        Raises:
            ValueError: naming the site, if a latent site is missing, has the wrong shape or lies outside its support.
        """
        deterministic = {s.name for s in self.program.sites if s.kind == "deterministic"}
        return self.program.unconstrain({k: v for k, v in values.items() if k not in deterministic})

    @property
    def example(self) -> Position:
        """A position of zeros: the structure, shapes and dtype of every position of this target.

        Raises:
            ValueError: if a latent site is discrete and not summed out, so that no method on a real vector applies.
        """
        for site in self.program.sites:
            if site.kind == "discrete":
                raise ValueError(
                    f"Site '{site.name}' is a discrete latent variable (support {site.support}): Gaussian guides, "
                    "flows and gradient-based kernels move on continuous latents only. Mark it with "
                    "infer={'enumerate': 'parallel'} (or numpyro.handlers.infer_config) to sum it out exactly where "
                    "it has finitely many values, or fit a guide that draws it: pf.fit(target, "
                    "pf.program_guide(guide), gradient=pf.Score()). If it is data, pass it as obs=."
                )
        return self.template

    @property
    def template(self) -> Position:
        """A position of zeros, where discrete sites have entries too."""
        example = getattr(self.program, "example", None)
        if example is not None:
            return jax.tree.map(jnp.zeros_like, example)
        dtype = jnp.result_type(float)
        return {s.name: jnp.zeros(s.unconstrained_shape or (), dtype) for s in self.program.latents}

    @property
    def dim(self) -> int:
        """Number of unconstrained coordinates, one per element of a discrete site."""
        return sum(int(leaf.size) for leaf in jax.tree.leaves(self.template))

    @property
    def subsampled(self) -> bool:
        """Whether the program declares a minibatch for some plate."""
        return any(p.subsample_size is not None for p in self.program.plates)

    # -- derived targets ---------------------------------------------------------------------------------------------

    def scaled(self, weights: Mapping[str, Any]) -> Target:
        """The target with the log-probabilities of some sites multiplied by weights.

        Weight 0.5 on an observed site tempers its likelihood, weights on latent sites their priors. With weights other
        than one the ELBO bounds a tempered evidence, no longer log p(data).

        Args:
            weights: ``{site: weight}``, a number per site, or an array of its batch shape where that is not subsampled.

        Raises:
            ValueError: if a name is not a site of the program, or a weight is negative, not finite or of another shape.
        """
        check_weights(weights, self.program.sites)
        merged = {**self.weights, **weights}
        return self._replace(weights=merged)

    def with_params(self, params: dict[str, Any], *, fitted: bool = True) -> Target:
        """The target with other (unconstrained) values of its learnable parameters."""
        return self._replace(program=self.program.with_params(params), fitted=fitted)

    def rebind(self, *args: Any, **kwargs: Any) -> Target:
        """The same program and parameters with other arguments: new data, or None where data is to be predicted."""
        return self._replace(program=self.program.rebind(*args, **kwargs), coords={}, dims=dict(self.user_dims))

    def condition(self, values: Mapping[str, Any]) -> Target:
        """The target with the data of its observed sites replaced by ``values``."""
        return self._replace(program=self.program.condition(values))

    def _replace(self, **changes: Any) -> Target:
        settings = {
            "program": self.program,
            "weights": self.weights,
            "coords": dict(self.user_coords),
            "dims": dict(self.user_dims),
            "fitted": self.fitted,
            **changes,
        }
        return Target(settings.pop("program"), **settings)

    # -- random draws ------------------------------------------------------------------------------------------------

    def initial(self, key: Key, num: int | None = None, *, gradient: bool = True) -> Position:
        """Draw starting positions of finite log-density and gradient: uniform on (-2, 2) per unconstrained coordinate.

        Args:
            key: a key.
            num: None for one position, else the leaves get a leading axis of this length.
            gradient: False for densities without gradient, of which only the value need be finite.

        Raises:
            ValueError: naming the sites whose log-probability is not finite, when no such position is found.
        """
        if self.dim == 0:
            return self.example
        count = 1 if num is None else num
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count))
        chosen, good = _draw_in_box(self, keys, 2.0, gradient)
        for round_ in range(1, _INITIAL_ATTEMPTS):
            if bool(jnp.all(good)):
                break
            radius = 2.0 * 10.0 ** (-2.0 * round_ / (_INITIAL_ATTEMPTS - 1))
            again = jax.vmap(lambda k, r=round_: jax.random.fold_in(k, r))(keys)
            fresh, fine = _draw_in_box(self, again, radius, gradient)
            use = fine & ~good
            chosen = jax.tree.map(
                lambda a, b, u=use: jnp.where(u.reshape(u.shape + (1,) * (a.ndim - 1)), b, a), chosen, fresh
            )
            good = good | fine
        if not bool(jnp.all(good)):
            worst = int(jnp.argmin(good))
            raise ValueError(self._no_initial_position(jax.tree.map(lambda x: x[worst], chosen)))
        return jax.tree.map(lambda x: x[0], chosen) if num is None else chosen

    def is_finite(self, position: Position, *, gradient: bool = True) -> Array:
        """Whether log-density and, if it matters, gradient are finite at a position. Traceable."""
        found = jax.value_and_grad(self.logdensity)(position) if gradient else self.logdensity(position)
        return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(found)]))

    def nonfinite_sites(self, position: Position, batch: Batch | None = None) -> dict[str, float]:
        """Sites whose log-probability is not finite at a position, with the value found."""
        values = _traced_site_log_probs(self, position, batch)
        return {k: float(v) for k, v in values.items() if not bool(jnp.isfinite(v))}

    def _no_initial_position(self, position: Position) -> str:
        bad = self.nonfinite_sites(position)
        data = [k for k, v in self.observed().items() if not bool(jnp.all(jnp.isfinite(jnp.asarray(v, float))))]
        where = ", ".join(f"'{k}' ({v})" for k, v in bad.items()) or "the gradient (every site's value is finite)"
        hint = (
            f"The data of site(s) {data} contains NaN or infinity: remove or mask those entries."
            if data
            else "Check the supports, the scale of priors and the data of these sites, or pass a starting point."
        )
        return (
            f"No starting position with finite log-density was found for {self.program.source} in {_INITIAL_ATTEMPTS} "
            f"rounds (step 0). Expected a finite log-probability at every site; not finite: {where}. {hint}"
        )

    def minibatch(self, key: Key) -> dict[str, Array]:
        """Draw ``{plate: distinct indices}``, each equally likely, for plates that declare a ``subsample_size``."""
        plates = sorted((p for p in self.program.plates if p.subsample_size is not None), key=lambda p: p.name)
        return {
            p.name: draw_subset(jax.random.fold_in(key, i), p.size, p.subsample_size)
            for i, p in enumerate(plates)
            if p.subsample_size is not None
        }

    def predict(self, key: Key, position: Position) -> Values:
        """One draw of the observed sites given the latents at a position (posterior predictive), deterministics too."""
        simulated = self.program.simulate(key, self.program.evaluate(position).values)
        latent = {s.name for s in self.program.latents}
        return {k: v for k, v in simulated.items() if k not in latent}

    def prior(self, key: Key) -> Values:
        """One draw of every site from the generative process (prior and prior predictive)."""
        return self.program.simulate(key)

    # -- labels ------------------------------------------------------------------------------------------------------

    def observed(self) -> Values:
        """Observed data by site name."""
        return self.program.observed()

    def constants(self, observed: Values | None = None) -> Values:
        """Array arguments of the program that are not ``observed`` (its own data by default), by argument name."""
        return self.program.constants(self.observed() if observed is None else observed)

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Dimension names per site, one per axis of its value: plates, the user's names, else ``site_dim_i``."""
        return site_dims(self.program.sites, dict(self.user_dims))

    @property
    def coords(self) -> dict[str, tuple[Any, ...]]:
        """Coordinate labels per dimension: the user's, else 0..n-1 for plates."""
        out: dict[str, tuple[Any, ...]] = {p.name: tuple(range(p.size)) for p in self.program.plates}
        out.update(dict(self.user_coords))
        return out

    def __repr__(self) -> str:
        latent = [f"{s.name}{list(s.shape) or ''} {s.support}" for s in self.program.latents]
        observed = [f"{s.name}{list(s.shape) or ''}" for s in self.program.sites if s.kind == "observed"]
        lines = [f"Target {self.program.source}: {self.dim} unconstrained dimensions", "  latent: " + ", ".join(latent)]
        if observed:
            lines.append("  observed: " + ", ".join(observed))
        if self.program.enumerated:
            lines.append("  marginalised: " + ", ".join(name for name, _, _ in self.program.enumerated))
        if self.program.params:
            lines.append("  learnable: " + ", ".join(self.program.params))
        if self.subsampled:
            plates = [
                f"{p.name} {p.subsample_size}/{p.size}" for p in self.program.plates if p.subsample_size is not None
            ]
            lines.append("  minibatch: " + ", ".join(plates))
        if self.weights:
            lines.append("  weights: " + ", ".join(self.weights) + " (bounds refer to the tempered evidence)")
        return "\n".join(lines)


@jax.jit
def _traced_site_log_probs(target: Target, position: Position, batch: Batch | None) -> dict[str, Array]:
    # Traced, so that a front end's own argument checks (a scale that underflowed to zero) cannot replace the answer.
    return target.site_log_probs(position, batch)


@functools.partial(jax.jit, static_argnums=3)
def _draw_in_box(target: Target, keys: Key, radius: float, gradient: bool) -> tuple[Position, Array]:
    """Uniform positions in a box, one per key, and whether density and gradient are finite there."""
    leaves, treedef = jax.tree.flatten(target.example)

    def draw(key: Key) -> Position:
        parts = jax.random.split(key, max(len(leaves), 1))
        drawn = [jax.random.uniform(k, x.shape, x.dtype, -1.0, 1.0) for k, x in zip(parts, leaves, strict=False)]
        return jax.tree.unflatten(treedef, [x * jnp.asarray(radius, x.dtype) for x in drawn])

    positions = jax.vmap(draw)(keys)
    return positions, jax.vmap(lambda x: target.is_finite(x, gradient=gradient))(positions)


def _depth(site: Site) -> int:
    return max((-p.dim for p in site.plates), default=0)
