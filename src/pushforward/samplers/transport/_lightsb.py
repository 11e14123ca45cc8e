"""The light Schroedinger bridge: entropic transport to data whose plan, drift and paths are in closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ...models._types import Key
from .._checks import as_array, check_clouds, check_count, check_floats, check_key, check_positive, check_weights
from ._component_matrices import inner, inverse, log_det, root, times, towards_identity
from ._lightsb_select import fit_selected
from ._matrices import product, symmetric, transposed

Covariance: TypeAlias = Literal["full", "diagonal"]
Draw: TypeAlias = Callable[[Key, int], Float[Array, "n d"]]
"""``draw(key, num)``: that many independent points."""


class Conditional(NamedTuple):
    """``pi(y | x)``, a mixture of Gaussians, for points x of leading shape (...)."""

    log_weights: Float[Array, "... k"]
    """Normalised."""
    means: Float[Array, "... k d"]
    covariances: Array
    """The same for every x: (k, d, d), or variances (k, d)."""


class Record(NamedTuple):
    """How a fit went."""

    loss: Float[Array, ""]
    """``E_x log c(x) - E_y log v(y)`` in nats, in the scaled units of the fit, with the prior's share."""
    num_steps: Int[Array, ""]
    converged: Bool[Array, ""]


class LightSB(eqx.Module):
    """Schroedinger bridge with potential ``v(y) = sum_k alpha_k N(y; r_k, epsilon S_k)``.

    It couples x ~ p0 and y ~ p1 by the plan ``pi(y | x) = exp(<x, y> / epsilon) v(y) / c(x)``: the entropic plan
    ``min E|x - y|^2 / 2 + epsilon KL`` between p0 and its own image, and the two ends of the diffusion
    ``dX = drift(t, X) dt + sqrt(epsilon) dW`` from t = 0 to 1 that is closest to Brownian motion. Epsilon is half of
    what `solve` calls epsilon with its squared Euclidean cost. All of it is closed form: nothing is integrated in time.

    Most users call `fit`; the constructor takes a known potential.

    Args:
        log_weights: log alpha_k, shape (k,); a common factor changes nothing but the potential itself.
        locations: r_k, shape (k, d), relative to ``y_mean`` (and for x relative to ``x_mean``).
        scales: S_k, symmetric and positive definite, shape (k, d, d), or diagonals (k, d).
        epsilon: positive, the variance of the Brownian motion at time 1.
        x_mean: origin of x in the formulas above, shape (d,); zero by default.
        y_mean: origin of y; zero by default.

    Raises:
        ValueError: for shapes that do not match, numbers that are not finite, scales that are not positive definite, or
            an epsilon that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> plan = LightSB(jnp.zeros(1), jnp.ones((1, 1)), jnp.full((1, 1), 0.5), epsilon=1.0)
        >>> float(plan.moments(jnp.array([4.0]))[0][0])
        3.0

    Reference: Korotin, Gushchin, Burnaev, Light Schroedinger bridge, arXiv:2310.01174, propositions 3.2 and 3.3. The
    fit is our own, see `fit`.
    """

    log_weights: Float[Array, " k"]
    locations: Float[Array, "k d"]
    scales: Array
    epsilon: Float[Array, ""]
    x_mean: Float[Array, " d"]
    y_mean: Float[Array, " d"]
    record: Record | None

    def __init__(
        self,
        log_weights: Any,
        locations: Any,
        scales: Any,
        epsilon: Any,
        *,
        x_mean: Any = None,
        y_mean: Any = None,
        record: Record | None = None,
    ) -> None:
        self.locations = check_floats("locations", locations, "k, d")
        dtype, (num, dim) = self.locations.dtype, self.locations.shape
        self.log_weights = check_floats("log_weights", log_weights, "k").astype(dtype)
        given = as_array("scales", scales, "an array of shape (k, d, d) or (k, d)")
        shape = given.shape
        self.scales = check_floats("scales", given, "k, d, d" if len(shape) == 3 else "k, d").astype(dtype)
        if self.log_weights.shape != (num,) or shape not in ((num, dim), (num, dim, dim)):
            raise ValueError(
                f"log_weights has shape {self.log_weights.shape}, locations {self.locations.shape} and scales {shape}: "
                "expected (k,), (k, d), and (k, d, d) or (k, d)."
            )
        if not isinstance(self.scales, jax.core.Tracer) and not bool(jnp.isfinite(log_det(self.scales)).all()):
            raise ValueError("scales has a matrix that is not positive definite: expected only positive definite ones.")
        if self.scales.ndim == 3 and not isinstance(self.scales, jax.core.Tracer):
            skew = jnp.abs(self.scales - transposed(self.scales)).max()
            if float(skew) > 64.0 * dim * float(jnp.finfo(dtype).eps) * float(jnp.abs(self.scales).max()):
                raise ValueError(
                    f"scales has a matrix whose two halves differ by {float(skew):.3g}: expected symmetric ones."
                )
        self.epsilon = check_positive("epsilon", epsilon, dtype)
        self.x_mean, self.y_mean = _origin("x_mean", x_mean, dim, dtype), _origin("y_mean", y_mean, dim, dtype)
        self.record = record

    @classmethod
    def fit(
        cls,
        key: Key,
        x: Float[Array, "n d"] | Draw,
        y: Float[Array, "m d"] | Draw,
        *,
        epsilon: Any,
        a: Any = None,
        b: Any = None,
        num_components: int | None = None,
        covariance: Covariance = "full",
        num_samples: int = 20_000,
        tolerance: float = 1e-4,
        max_steps: int = 300,
    ) -> LightSB:
        """Fit to points, by maximum likelihood; the defaults serve every epsilon.

        Points are centred and scaled, components start from clusters of y at a large epsilon, and each step matches the
        components' moments on both sides in closed form (see ``_lightsb_fit``): there is no learning rate. Each
        component has as many pseudo-observations as there are dimensions, so that none collapses.

        Args:
            key: for clusters, and for draws.
            x: points (n, d), or a function ``draw(key, num)``.
            y: points (m, d), or a function.
            epsilon: positive, in squared units of the points: the variance of the bridge's noise.
            a: weights of x that sum to one; equal ones by default. Not for a function.
            b: weights of y.
            num_components: k; by default the best of 2, 8, 32, 128 in the loss of a fifth of the points, held out while
                the number is found. That default cannot be traced.
            covariance: "full" matrices S_k, or "diagonal" ones for large d.
            num_samples: points drawn from each function.
            tolerance: the fit ends after three steps in a row that gain less than this, in nats per point.
            max_steps: most steps at this epsilon; ``plan.record.converged`` says whether they were enough.

        Raises:
            ValueError: for clouds that do not match or are not finite, weights that are negative or do not sum to one,
                or an epsilon that is not positive.

        Cost: O((n + m) num_components d^2) per step, num_components d^3 besides; some tens of steps. Memory linear in
        n + m. Bias: the plan is exact where ``p1`` has such a potential, else the closest one in
        ``KL(true plan | plan)``; pseudo-observations add a bias of order num_components d / n.
        """
        check_key(key)
        key_x, key_y, key_fit = jax.random.split(key, 3)
        if covariance not in get_args(Covariance):
            raise ValueError(f"covariance={covariance!r}: expected 'full' or 'diagonal'.")
        for cloud, weights, names in ((x, a, "x and a"), (y, b, "y and b")):
            if callable(cloud) and weights is not None:
                raise ValueError(f"{names}: a function draws points of equal weight; expected no weights, or points.")
        num_samples = check_count("num_samples", num_samples, 1)
        x, y = (cloud(k, num_samples) if callable(cloud) else cloud for cloud, k in ((x, key_x), (y, key_y)))
        x, y = check_clouds(x, y)
        weights_ = check_weights("a", a, x.shape[0], x.dtype), check_weights("b", b, y.shape[0], y.dtype)
        epsilon = check_positive("epsilon", epsilon, x.dtype)
        check_positive("tolerance", tolerance, x.dtype, "nats per point")
        found, x_mean, y_mean = fit_selected(
            key_fit,
            (x, y),
            weights_,
            epsilon,
            num_components=None if num_components is None else check_count("num_components", num_components, 1),
            full=covariance == "full",
            tolerance=tolerance,
            max_steps=check_count("max_steps", max_steps, 1),
        )
        record = Record(found.loss, found.num_steps, found.converged)
        return cls(*found.parameters, epsilon, x_mean=x_mean, y_mean=y_mean, record=record)

    @property
    def dim(self) -> int:
        """Dimension of the points."""
        return self.locations.shape[1]

    @eqx.filter_jit
    def conditional(self, x: Float[Array, "... d"]) -> Conditional:
        """The mixture ``pi(y | x)``."""
        centred = self._points("x", x) - self.x_mean

        def one(point: Array) -> tuple[Array, Array]:
            return jax.nn.log_softmax(self._logits(jnp.zeros((), point.dtype), point)), self._means(point)

        log_weights, means = _over(one, centred)
        return Conditional(log_weights, means + self.y_mean, self.epsilon * self.scales)

    @eqx.filter_jit
    def moments(self, x: Float[Array, "... d"]) -> tuple[Float[Array, "... d"], Float[Array, "... d d"]]:
        """Mean and covariance of y given x."""
        log_weights, means, covariances = self.conditional(x)
        weights = jnp.exp(log_weights)
        mean = jnp.sum(weights[..., None] * means, axis=-2)
        spread = means - mean[..., None, :]
        full = covariances if covariances.ndim == 3 else covariances[..., None] * jnp.eye(self.dim, dtype=mean.dtype)
        flat = jnp.reshape(full, (full.shape[0], -1))
        within = jnp.reshape(product(weights, flat), (*mean.shape, self.dim))
        return mean, symmetric(within + product(transposed(weights[..., None] * spread), spread))

    @eqx.filter_jit
    def log_prob(self, x: Float[Array, "... d"], y: Float[Array, "... d"]) -> Float[Array, "..."]:
        """``log pi(y | x)``, normalised over y: of pairs, so that leading axes of x and y are equal or broadcast."""
        log_weights, means, covariances = self.conditional(x)
        y = self._points("y", y)
        if any(n != m and 1 not in (n, m) for n, m in zip(y.shape[::-1], jnp.shape(x)[::-1], strict=False)):
            raise ValueError(
                f"x has shape {jnp.shape(x)} and y {y.shape}: expected one x for each y; for all pairs pass x[:, None]."
            )
        deviation = y[..., None, :] - means
        solved = _over(lambda point: times(inverse(covariances), point), deviation, trailing=2)
        quadratic = jnp.sum(deviation * solved, axis=-1)
        constant = log_det(covariances) + self.dim * jnp.log(2.0 * jnp.pi).astype(y.dtype)
        return jax.nn.logsumexp(log_weights - 0.5 * (quadratic + constant), axis=-1)

    @eqx.filter_jit
    def log_potential(self, y: Float[Array, "... d"]) -> Float[Array, "..."]:
        """``log v(y)``, of any total mass."""
        deviation = (self._points("y", y) - self.y_mean)[..., None, :] - self.locations
        covariances = self.epsilon * self.scales
        solved = _over(lambda point: times(inverse(covariances), point), deviation, trailing=2)
        constant = log_det(covariances) + self.dim * jnp.log(2.0 * jnp.pi).astype(deviation.dtype)
        terms = self.log_weights - 0.5 * (jnp.sum(deviation * solved, axis=-1) + constant)
        return jax.nn.logsumexp(terms, axis=-1)

    @eqx.filter_jit
    def sample(self, key: Key, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """One y from ``pi(y | x)`` for every x."""
        key_component, key_noise = jax.random.split(check_key(key))
        log_weights, means, _ = self.conditional(x)
        chosen = jax.random.categorical(key_component, log_weights)
        noise = jax.random.normal(key_noise, means.shape[:-2] + (self.dim,), means.dtype)
        factors = root(self.epsilon * self.scales)

        def one(chosen: Array, means: Array, noise: Array) -> Array:
            factor = factors[chosen]
            return means[chosen] + (factor * noise if factor.ndim == 1 else product(factor, noise))

        flat = jax.vmap(one)(*(jnp.reshape(v, (-1, *v.shape[chosen.ndim :])) for v in (chosen, means, noise)))
        return jnp.reshape(flat, noise.shape)

    def sample_paths(self, key: Key, x: Float[Array, "... d"], times: Float[Array, " t"]) -> Float[Array, "t ... d"]:
        """The diffusion at given times, from every x: exact at any times, as its end is drawn first.

        Given both ends it is a Brownian bridge.

        Args:
            key: a typed key.
            x: starts.
            times: increasing, in [0, 1].
        """
        key_end, key_bridge = jax.random.split(check_key(key))
        start = self._points("x", x)
        end = self.sample(key_end, start)
        times = check_floats("times", times, "t").astype(start.dtype)
        if not isinstance(times, jax.core.Tracer) and not (
            bool((jnp.diff(times) >= 0).all()) and 0 <= float(times[0]) and float(times[-1]) <= 1
        ):
            raise ValueError(f"times={times}: expected increasing times between 0 and 1.")
        return self._bridge(key_bridge, start, end, times)

    @eqx.filter_jit
    def _bridge(
        self, key: Key, start: Float[Array, "... d"], end: Float[Array, "... d"], times: Float[Array, " t"]
    ) -> Float[Array, "t ... d"]:
        noise = jax.random.normal(key, (times.shape[0], *start.shape), start.dtype)

        def advance(carry: tuple[Array, Array], now: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
            (time, position), (new, noise) = carry, now
            left = 1.0 - time
            share = jnp.where(left > 0, (new - time) / jnp.where(left > 0, left, 1.0), 1.0)
            spread = jnp.sqrt(self.epsilon * jnp.maximum((new - time) * (1.0 - share), 0.0))
            position = position + share * (end - position) + spread * noise
            return (new, position), position

        return jax.lax.scan(advance, (jnp.zeros((), start.dtype), start), (times, noise))[1]

    @eqx.filter_jit
    def drift(self, time: Any, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """Mean velocity of the diffusion at a time: with it, noise sqrt(epsilon) dW leads from p0 to p1.

        Finite at all times, both ends included.

        Args:
            time: one number in [0, 1].
            x: positions at that time.
        """
        points = self._points("x", x)
        time = jnp.asarray(time, points.dtype)
        # Both origins move: a path from x_mean to y_mean is subtracted.
        centred = points - (1.0 - time) * self.x_mean - time * self.y_mean
        inverses = inverse(towards_identity(self.scales, time))

        def one(point: Array) -> Array:
            weights = jax.nn.softmax(self._logits(time, point))
            return jnp.sum(weights[:, None] * times(inverses, self._means(point) - point), axis=0)

        return _over(one, centred) + self.y_mean - self.x_mean

    def _means(self, point: Float[Array, " d"]) -> Float[Array, "k d"]:
        return self.locations + times(self.scales, point)

    def _logits(self, time: Array, point: Float[Array, " d"]) -> Float[Array, " k"]:
        """Log-weights of the components for the end of a path at ``point`` at a time, up to one constant."""
        mixed = towards_identity(self.scales, time)
        inverses = inverse(mixed)
        pulled = times(inverses, point)
        quadratic = inner(times(self.scales, pulled) - pulled, jnp.broadcast_to(point, pulled.shape))
        quadratic = quadratic + 2.0 * inner(pulled, self.locations)
        quadratic = quadratic - time * inner(times(inverses, self.locations), self.locations)
        return self.log_weights - 0.5 * log_det(mixed) + quadratic / (2.0 * self.epsilon)

    def _points(self, name: str, value: Any) -> Array:
        found = jnp.asarray(value)
        if found.ndim == 0 or found.shape[-1] != self.dim or not jnp.issubdtype(found.dtype, jnp.floating):
            raise ValueError(
                f"{name} has shape {found.shape} and dtype {found.dtype}: expected floating-point points of "
                f"{self.dim} dimensions, of shape (..., {self.dim})."
            )
        return found


def _origin(name: str, mean: Any, dim: int, dtype: Any) -> Float[Array, " d"]:
    if mean is None:
        return jnp.zeros((dim,), dtype)
    found = check_floats(name, mean, "d").astype(dtype)
    if found.shape != (dim,):
        raise ValueError(f"{name} has shape {found.shape}: expected ({dim},), as locations have {dim} dimensions.")
    return found


def _over(function: Callable[[Array], Any], points: Array, *, trailing: int = 1) -> Any:
    """``function`` of each point of an array with any leading axes."""
    leading = points.shape[: points.ndim - trailing]
    flat = jnp.reshape(points, (-1, *points.shape[points.ndim - trailing :]))
    found = jax.vmap(function)(flat)
    return jax.tree.map(lambda v: jnp.reshape(v, (*leading, *v.shape[1:])), found)
