"""Derivatives of value and potentials: against differences, against closed forms, stored and streamed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import fast

import pushforward as pf
from pushforward.samplers.transport import _arguments

KEYS = jax.random.split(jax.random.key(0), 6)
X, Y = jax.random.normal(KEYS[0], (15, 2)), jax.random.normal(KEYS[1], (12, 2)) + 1.0
A = jax.random.dirichlet(KEYS[2], jnp.ones(15)).at[5].set(0.0)
B = jax.random.dirichlet(KEYS[3], jnp.ones(12)).at[3].set(0.0)
MARGINALS = {"exact": None, "soft": 2.0, "half soft": (None, 1.0)}


def value(x, y, a, b, epsilon, strength):
    return solved(x, y, a, b, epsilon, strength).cost


def solved(x, y, a, b, epsilon, strength):
    return pf.transport.solve(
        x, y, a=a / a.sum(), b=b / b.sum(), epsilon=epsilon, marginal_strength=strength, tolerance=1e-13
    )


def potentials(x, y, a, b, epsilon, strength):
    """A function of both potentials that does not see a constant moved between them."""
    found = solved(x, y, a, b, epsilon, strength)
    f, g = found.potentials
    shift = jnp.sum(a * f) / jnp.sum(a)
    return jnp.sum(jnp.sin(f - shift)) + jnp.sum(jnp.cos(g + shift) ** 2)


def difference(function, x, v, step=1e-5):
    return (function(x + step * v) - function(x - step * v)) / (2.0 * step)


def close(measured, expected):
    np.testing.assert_allclose(
        measured, expected, rtol=1e-6, atol=1e-7 * float(jnp.max(jnp.abs(jnp.asarray(expected))))
    )


CASES = [
    (of, marginal, kind) for kind in ("stored", "streamed") for of in ("value", "potentials") for marginal in MARGINALS
]


@pytest.mark.parametrize(("of", "marginal", "kind"), fast(CASES, CASES[0], CASES[4], CASES[9], several=True))
def test_against_differences(of, marginal, kind, monkeypatch):
    if kind == "streamed":
        monkeypatch.setattr(_arguments, "_DENSE_LIMIT", 0)
    function = value if of == "value" else potentials
    arguments = [X, Y, A, B, jnp.asarray(0.3)]
    slopes = jax.grad(function, argnums=(0, 1, 2, 3, 4))(*arguments, MARGINALS[marginal])
    for k, name in enumerate("xyabe"):
        direction = jax.random.normal(KEYS[4], arguments[k].shape)
        if name in "ab":
            # Weights of zero cannot fall.
            direction = direction * arguments[k]

        def along(z, k=k):
            return function(*arguments[:k], z, *arguments[k + 1 :], MARGINALS[marginal])

        close(jnp.sum(slopes[k] * direction), difference(along, arguments[k], direction))


def test_a_weight_of_zero_can_rise():
    """The one-sided derivative there is the potential's, up to the constant that normalising takes away."""
    found = solved(X, Y, A, B, 0.3, None)
    slope = jax.grad(value, argnums=2)(X, Y, A, B, 0.3, None)
    a = A / A.sum()
    close(slope * A.sum(), found.potentials[0] - jnp.sum(a * found.potentials[0]))
    raised = (value(X, Y, A.at[5].add(1e-6), B, 0.3, None) - value(X, Y, A, B, 0.3, None)) / 1e-6
    np.testing.assert_allclose(slope[5], raised, rtol=1e-4)


@pytest.mark.parametrize("kind", ["stored", "streamed"])
def test_hessian_vector_products(kind, monkeypatch):
    if kind == "streamed":
        monkeypatch.setattr(_arguments, "_DENSE_LIMIT", 0)
    direction = jax.random.normal(KEYS[5], X.shape)

    def slope(x):
        return jax.grad(value)(x, Y, A, B, 0.3, None)

    expected = difference(slope, X, direction)
    close(jax.grad(lambda x: jnp.sum(slope(x) * direction))(X), expected)
    if kind == "stored":
        close(jax.jvp(slope, (X,), (direction,))[1], expected)


def nodes(count):
    """Nodes and weights of a quadrature for a standard normal."""
    x, w = np.polynomial.hermite_e.hermegauss(count)
    return jnp.asarray(x), jnp.asarray(w / w.sum())


def closed_form(mean, sd, other_mean, other_sd, epsilon):
    """``min <C, P> + epsilon KL(P | a b^T)`` between normals, and their covariance under the plan.

    Janati et al., arXiv:2006.02572, theorem 1, with epsilon = 2 sigma^2.
    """
    noise = epsilon / 2.0
    root = jnp.sqrt(4.0 * sd**2 * other_sd**2 + noise**2)
    value = (mean - other_mean) ** 2 + sd**2 + other_sd**2 - root
    value += noise * (1.0 - jnp.log(2.0 * noise) + jnp.log(root + noise))
    return value, 0.5 * (root - noise)


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_normals_on_quadrature_nodes(epsilon):
    z, weights = nodes(60)

    def measured(parameters):
        mean, sd = parameters
        return pf.transport.solve(
            (mean + sd * z)[:, None], (0.3 + 1.4 * z)[:, None], a=weights, b=weights, epsilon=epsilon
        )

    def truth(parameters):
        return closed_form(parameters[0], parameters[1], 0.3, 1.4, epsilon)

    at = jnp.asarray([-0.2, 0.8])
    found = measured(at)
    cost, covariance = truth(at)
    np.testing.assert_allclose(found.cost, cost, rtol=1e-6)
    x, y = at[0] + at[1] * z, 0.3 + 1.4 * z
    np.testing.assert_allclose(jnp.sum((x - at[0]) * found.apply(y - 0.3)), covariance, rtol=1e-6)
    slope = jax.grad(lambda p: measured(p).cost)
    expected = jax.grad(lambda p: truth(p)[0])
    np.testing.assert_allclose(slope(at), expected(at), rtol=1e-6)
    hessian = jax.jacfwd(slope)(at)
    np.testing.assert_allclose(hessian, jax.hessian(lambda p: truth(p)[0])(at), rtol=1e-6, atol=1e-8)
    along = jnp.asarray([0.6, -0.8])
    np.testing.assert_allclose(hessian @ along, difference(slope, at, along), rtol=1e-4, atol=1e-6)
