"""Mirror maps, mirrored forces and adaptive kernels against automatic differentiation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints as nc

import pushforward as pf
from pushforward.models._layout import Layout
from pushforward.samplers._ensemble import Evaluated
from pushforward.samplers.pairs import IMQ
from pushforward.samplers.stein import SVMD, SVNG, CoinMirroredSVGD, CoinSVMD, Mirror, MirroredSVGD
from pushforward.samplers.stein._mirror import dual_logdensity
from pushforward.samplers.stein._mirrored import mirrored_force
from pushforward.samplers.stein._svmd import adaptive_roots

ALPHA = jnp.asarray([2.0, 0.5, 3.0, 1.5])


def mixed():
    numpyro.sample("box", dist.Beta(jnp.asarray([2.0, 5.0]), 3.0).to_event(1))
    numpyro.sample("real", dist.Normal(jnp.asarray([1.0, -20.0]), jnp.asarray([0.5, 2.0])).to_event(1))
    numpyro.sample("scale", dist.Gamma(5.0, 0.5))
    numpyro.sample("w", dist.Dirichlet(jnp.stack([ALPHA, ALPHA[::-1]])).to_event(1))


def parts(target):
    layout = Layout.of(target.example)
    return layout, Mirror.of(target, layout)


def in_pyro():
    pd, torch = pytest.importorskip("pyro.distributions"), pytest.importorskip("torch")
    import pyro

    def same():
        pyro.sample("box", pd.Beta(torch.tensor([2.0, 5.0]), 3.0).to_event(1))
        pyro.sample("real", pd.Normal(torch.tensor([1.0, -2.0]), 1.0).to_event(1))
        pyro.sample("scale", pd.Gamma(5.0, 0.5))
        pyro.sample("w", pd.Dirichlet(torch.ones(2, 4)).to_event(1))

    return pf.from_pyro(same)


def as_function():
    sizes = {"box": 2, "real": 2, "scale": (), "w": (2, 4)}
    constraints = {"box": nc.unit_interval, "scale": nc.positive, "w": nc.simplex}
    return pf.from_logdensity(
        lambda p: sum(jnp.sum(x) for x in p.values()), {n: jnp.ones(s) for n, s in sizes.items()}, constraints
    )


@pytest.mark.parametrize(
    "build", [lambda: pf.from_numpyro(mixed), as_function, pytest.param(in_pyro, marks=pytest.mark.slow)]
)
def test_maps_follow_the_supports_of_every_front_end(build):
    maps = {p.name: p.map for p in parts(build())[1].parts}
    assert maps == {"box": "box", "real": "identity", "scale": "positive", "w": "simplex"}


def test_maps_are_inverse_and_their_derivatives_exact(getkey):
    target = pf.from_numpyro(mixed)
    layout, mirror = parts(target)
    dual, vectors = 2.0 * jax.random.normal(getkey(), (5, layout.dim)), jax.random.normal(getkey(), (5, layout.dim))
    rows, weights = jax.random.normal(getkey(), (3, 13)), jax.random.normal(getkey(), (3, 5))

    @jax.jit
    def compared():
        position = mirror.to_position(dual)
        primal = mirror.primal(dual)
        values = jax.vmap(lambda u: target.constrain(layout.unravel(u))["w"])(position)
        jacobian = jax.vmap(jax.jacfwd(lambda x: mirror.primal(x[None]).points[0]))(dual)
        difference = primal.points[None] - rows[:, None]
        square = jnp.swapaxes(jax.vmap(mirror.pull)(jnp.swapaxes(jacobian, 1, 2)), 1, 2)
        return [
            (mirror.to_dual(position), dual),
            (primal.points[:, -8:], values.reshape(5, 8)),
            (
                mirror.pulled_differences(weights, rows, primal),
                jnp.einsum("ij,jmc,ijm->ic", weights, jacobian, difference),
            ),
            (
                mirror.metric(primal, vectors, 0.03),
                jnp.linalg.solve(square + 0.03 * jnp.eye(layout.dim), vectors[..., None])[..., 0],
            ),
        ]

    for found, exact in compared():
        np.testing.assert_allclose(found, exact, rtol=1e-8, atol=1e-10)


def test_tiny_probabilities_keep_their_digits():
    target = pf.from_logdensity(lambda x: 0.0 * jnp.sum(x), jnp.ones(5) / 5, nc.simplex)
    _, mirror = parts(target)
    dual = jnp.asarray([[300.0, -250.0, 1.0, 280.0], [-300.0, -1.0, 2.0, -3.0]])
    there_and_back = jax.jit(lambda x: mirror.to_dual(mirror.to_position(x)))
    np.testing.assert_allclose(there_and_back(dual), dual, rtol=1e-12)


def test_dual_density_is_the_density_with_its_change_of_variables(getkey):
    target = pf.from_numpyro(mixed)
    layout, mirror = parts(target)
    dual = jax.random.normal(getkey(), (4, layout.dim))

    def changed(x):
        position = mirror.to_position(x[None])[0]
        slope = jax.jacfwd(lambda y: mirror.to_position(y[None])[0])(x)
        return target.logdensity(layout.unravel(position)) + jnp.linalg.slogdet(slope)[1]

    found, exact = jax.jit(jax.vmap(lambda x: (dual_logdensity(mirror, target, layout, x, None), changed(x))))(dual)
    np.testing.assert_allclose(found, exact, rtol=1e-9)


def dirichlet():
    return pf.from_logdensity(lambda x: jnp.sum((ALPHA - 1.0) * jnp.log(x)), jnp.ones(4) / 4, nc.simplex)


def imq(x, y, width):
    return (1.0 + jnp.sum((x - y) ** 2) / width**2) ** -0.5


def test_mirrored_force_equals_its_definition(getkey):
    target = pf.from_numpyro(mixed)
    layout, mirror = parts(target)
    dual = jax.random.normal(getkey(), (9, layout.dim))
    scores = jax.random.normal(getkey(), dual.shape)
    of = lambda x: mirror.primal(x[None]).points[0]  # noqa: E731

    def at(y):
        k = lambda x: imq(of(x), of(y), 3.0)  # noqa: E731
        return jnp.mean(jax.vmap(lambda x, s: k(x) * s + jax.grad(k)(x))(dual, scores), axis=0)

    def both(dual):
        force = mirrored_force(IMQ(3.0), jnp.asarray(9.0), mirror, mirror.primal(dual), scores, jnp.ones(9))
        return force, jax.vmap(at)(dual)

    np.testing.assert_allclose(*jax.jit(both)(dual), rtol=1e-9, atol=1e-12)


def test_adaptive_kernel_equals_its_definition(getkey):
    """The matrix kernel written out with the Nystroem extension of its eigenfunctions, differentiated automatically."""
    target = dirichlet()
    layout, mirror = parts(target)
    n, width, damping = 7, 0.4, 0.02
    of = lambda x: mirror.primal(x[None]).points[0]  # noqa: E731
    score = jax.grad(lambda x: dual_logdensity(mirror, target, layout, x, None))
    sampler = SVMD(n, kernel=IMQ(width), cutoff=0.9, damping=damping).bind(target, 0)

    @jax.jit
    def both(dual):
        points, scores = jax.vmap(of)(dual), jax.vmap(score)(dual)
        gram = jax.vmap(lambda x: jax.vmap(lambda y: imq(x, y, width))(points))(points)
        values, vectors = (x[..., ::-1] for x in jnp.linalg.eigh(gram / n))
        kept = jnp.cumsum(values) - values < 0.9 * jnp.sum(values)
        jacobian = jax.vmap(jax.jacfwd(lambda x: of(x)[:-1]))(dual)
        hessian = jnp.linalg.inv(jacobian + damping * jnp.eye(3))
        on_cloud = np.sqrt(n) * vectors
        gamma = jnp.einsum("ci,cj,cpq->ijpq", on_cloud, on_cloud, hessian) / n
        root = jnp.where(kept, jnp.sqrt(values), 0.0)

        def kernel(x, a):
            functions = jax.vmap(lambda y: imq(of(x), y, width))(points) @ on_cloud / (n * values)
            return jnp.einsum("i,j,ijpq->pq", root * functions, root * on_cloud[a], gamma)

        def at(a):
            def one(x, s):
                slope = jax.jacfwd(lambda y: kernel(y, a))(x)
                return kernel(x, a).T @ s + jnp.trace(slope, axis1=0, axis2=2)

            return jnp.mean(jax.vmap(one)(dual, scores), axis=0)

        looked_at = Evaluated(scores[:, 0], scores, jnp.ones(n, bool))
        found, statistics = sampler.direction(mirror, mirror.primal(dual), looked_at)
        return found, jax.vmap(at)(jnp.arange(n)), statistics["rank"], jnp.sum(kept)

    found, exact, rank, kept = both(jax.random.normal(getkey(), (n, layout.dim)))
    np.testing.assert_allclose(found, exact, rtol=1e-7, atol=1e-9)
    assert 1 < int(rank) == int(kept) < n


def test_roots_multiply_to_the_projection_on_what_is_kept(getkey):
    x = jax.random.normal(getkey(), (8, 2))
    alive = jnp.arange(8) != 3
    up, down, rank = jax.jit(lambda: adaptive_roots(IMQ(1.0), x, alive, jnp.asarray(1.0)))()
    v = jnp.where(alive[:, None], jax.random.normal(getkey(), (8, 2)), 0.0)
    np.testing.assert_allclose(up(down(v)), v, atol=1e-9)
    assert int(rank) == 7


@pytest.mark.parametrize(
    "build", [CoinSVMD, *(pytest.param(b, marks=pytest.mark.slow) for b in (CoinMirroredSVGD, MirroredSVGD, SVMD))]
)
def test_moments_of_a_program_with_every_kind_of_support(build, getkey):
    posterior = pf.sample(pf.from_numpyro(mixed), build(50), key=getkey(), num_steps=300, progress=False)
    found = posterior.data["posterior"]
    exact = {
        "box": ([2 / 5, 5 / 8], [0.2, 0.1614]),
        "real": ([1.0, -20.0], [0.5, 2.0]),
        "scale": (10.0, np.sqrt(20.0)),
        "w": (np.stack([ALPHA, ALPHA[::-1]]) / 7.0, 0.15),
    }
    for name, (mean, sd) in exact.items():
        np.testing.assert_allclose((found[name].mean(("chain", "draw")) - np.asarray(mean)) / sd, 0.0, atol=0.3)


def test_a_metric_of_one_is_the_plain_flow_on_what_is_kept(getkey):
    """With G = 1 the natural gradient is SVGD's direction; with any constant G, G^-1 times it."""
    target = pf.from_logdensity(lambda x: -jnp.sum((x - 1.0) ** 4), jnp.zeros(2))
    x = jax.random.normal(getkey(), (10, 2))
    matrix = jnp.asarray([[2.0, 0.5], [0.5, 1.0]])
    natural = SVNG(lambda p: matrix, 10, kernel=IMQ(1.0), cutoff=1.0, damping=1e-12).bind(target, 0)
    plain = pf.SVGD(10, kernel=IMQ(1.0)).bind(target, 0)

    @jax.jit
    def both(key):
        at = natural.evaluate(x, jnp.ones(10, bool), None)
        found, exact = (k.direction(key, x, at, jnp.asarray(0), (), None)[0] for k in (natural, plain))
        return found, exact @ jnp.linalg.inv(matrix)

    found, exact = both(getkey())
    np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_natural_gradient_has_the_fixed_points_of_the_target(getkey):
    """A metric that varies: the drift's divergence is what keeps the target in place."""
    target = pf.from_logdensity(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(1))
    kernel = SVNG(lambda x: (1.0 + x**2)[:, None], 40, cutoff=1.0)
    posterior = pf.sample(target, kernel, key=getkey(), num_steps=600, progress=False)
    x = np.asarray(posterior.data["posterior"]["x"]).ravel()
    assert abs(x.mean()) < 0.1
    assert 0.8 < x.var() < 1.05


def test_bad_settings_are_refused_by_name():
    def local():
        with numpyro.plate("n", 6, subsample_size=2):
            numpyro.sample("w", dist.Dirichlet(jnp.ones(3)))

    with pytest.raises(ValueError, match="simplex site 'w' lies in a subsampled plate"):
        MirroredSVGD(5).bind(pf.from_numpyro(local), 0)
    for build, message in (
        (lambda: SVMD(5, cutoff=1.5), "cutoff=1.5"),
        (lambda: CoinSVMD(5, damping=0.0), "damping=0.0"),
        (lambda: MirroredSVGD(1), "num_particles=1"),
        (lambda: MirroredSVGD(5, kernel=3), "expected a radial kernel"),
        (lambda: SVNG(None, 5), "metric=None"),
        (lambda: CoinMirroredSVGD(5, alpha=-1.0), "alpha=-1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            build()
