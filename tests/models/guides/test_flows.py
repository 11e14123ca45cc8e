"""What is special about flows: exact inverses, log-determinants, forces carried along, restarts from a key."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from numpy.testing import assert_allclose
from tiers import fast

import pushforward as pf
from pushforward.models.guides import AbstractGuide, AbstractLocationScale, Whitened, flows

FLOWS = {
    "RealNVP": pf.RealNVP(num_layers=3, hidden=8),
    "SplineFlow": pf.SplineFlow(num_layers=3, hidden=8, num_bins=5),
    "IAF": pf.IAF(num_layers=3, hidden=8),
    "Planar": pf.Planar(num_layers=4),
    "Radial": pf.Radial(num_layers=4),
}
NAMES = list(FLOWS)


def standard_normal(dim):
    return pf.from_logdensity(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(dim))


def bound_flow(name, dim, size=0.3):
    """Layers drawn and moved off the identity."""
    target = standard_normal(dim)
    return jax.jit(lambda: registry.perturbed(FLOWS[name].bind(target).fresh(jax.random.key(dim)), size))()


# 1 has nothing to decide by, 5 has unequal halves.
@pytest.mark.parametrize(("name", "dim"), [("RealNVP", 1), ("IAF", 1), *((n, 5) for n in NAMES)])
def test_round_trip_and_log_determinant(name, dim, getkey):
    guide = bound_flow(name, dim)

    @jax.jit
    def there_and_back(layers, eps):
        x, log_det = layers.forward(eps)
        back, inverse_log_det = layers.inverse(x)
        exact = jnp.linalg.slogdet(jax.jacfwd(lambda e: layers.forward(e)[0])(eps))[1]
        return back - eps, log_det - exact, log_det + inverse_log_det

    # Spread over the bends and the linear tails alike.
    eps = 3.0 * jax.random.normal(getkey(), (40, dim))
    for error in jax.vmap(there_and_back, (None, 0))(guide.layers, eps):
        assert_allclose(error, 0.0, atol=1e-10)


@pytest.mark.parametrize("name", fast(NAMES, "RealNVP", "IAF", "Planar", "Radial"))
def test_finite_far_out_in_float32(name):
    with jax.enable_x64(False):
        guide = bound_flow(name, 5, size=1.0)
        directions = jax.random.normal(jax.random.key(1), (20, 5))
        far = jnp.concatenate([1e4 * directions / jnp.max(jnp.abs(directions), 1, keepdims=True), jnp.zeros((1, 5))])

        @jax.jit
        def everything(guide, x):
            draw = guide.from_noise(x)
            density = jax.value_and_grad(type(guide).log_prob, argnums=(0, 1))(guide, x)
            return draw, density, guide.layers.forward_with_force(x, -x), guide.forward_path(x, -x)

        for leaf in jax.tree.leaves(jax.vmap(everything, (None, 0))(guide, far)):
            assert leaf.dtype == jnp.float32
            assert np.isfinite(leaf).all()


def path_gradients(guide, target, draws, key):
    """Both divergences, one function so that it compiles once."""

    @jax.jit
    def gradients(guide, draws):
        reverse = pf.Path().value_and_grad(key, pf.ELBO(), target, guide, 4)[1].guide
        return reverse, pf.Path().value_and_grad(key, pf.ForwardKL(draws), target, guide, 4)[1].guide

    return gradients(guide, draws)


def relative_gap(one, other):
    leaves = [(np.asarray(a), np.asarray(b)) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True)]
    scale = max(np.abs(b).max() for _, b in leaves)
    return max(np.abs(a - b).max() for a, b in leaves) / scale


def single_and_two_passes(name, monkeypatch, *, wrap=False):
    target = registry.gaussian_target()
    guide = registry.GUIDES[name].build(target)
    if wrap:
        guide = Whitened(guide, jnp.ones(3), 2.0 * jnp.asarray(registry.ROOT, jnp.result_type(float)), guide.layout)
    draws = {"a": jnp.linspace(-1.0, 2.0, 7), "b": jnp.linspace(-3.0, 3.0, 14).reshape(7, 2)}
    key = jax.random.key(3)
    single = path_gradients(guide, target, draws, key)
    with monkeypatch.context() as patch:
        for owner in (flows.AbstractFlow, Whitened):
            patch.setattr(owner, "sample_and_force", AbstractGuide.sample_and_force)
        patch.setattr(flows.AbstractFlow, "forward_path", AbstractLocationScale.forward_path)
        return single, path_gradients(guide, target, draws, key)


@pytest.mark.parametrize("name", fast(NAMES, "RealNVP", "Planar"))
def test_single_pass_is_two_pass(name, monkeypatch):
    single, double = single_and_two_passes(name, monkeypatch, wrap=name == "RealNVP")
    for one, other in zip(single, double, strict=True):
        assert relative_gap(one, other) < 1e-10


@pytest.mark.parametrize("name", ["RealNVP", pytest.param("SplineFlow", marks=pytest.mark.slow)])
def test_single_pass_is_two_pass_in_float32(name, monkeypatch):
    with jax.enable_x64(False):
        single, double = single_and_two_passes(name, monkeypatch)
        for one, other in zip(single, double, strict=True):
            assert relative_gap(one, other) < 1e-5


def without_log_det(self, x, force):
    """The coupling's force without the gradient of the log-determinant."""
    y, log_det, new = REAL_FORWARD(self, x, force)
    kept, _ = self._split(x)
    lost = jax.grad(lambda k: self.forward(self._join(k, self._split(x)[1]))[1])(kept)
    return y, log_det, new + self._join(lost, jnp.zeros(x.size - kept.size))


def without_network(self, x, force):
    """The coupling's force without the vector-Jacobian product through the network."""
    y, log_det, new = REAL_FORWARD(self, x, force)
    return y, log_det, self._join(self._split(force)[0], self._split(new)[1])


REAL_FORWARD = flows.AbstractCoupling.forward_with_force


@pytest.mark.parametrize("mutant", fast([without_log_det, without_network], without_log_det))
def test_mutants_of_the_recursion_are_caught(mutant, monkeypatch):
    monkeypatch.setattr(flows.AbstractCoupling, "forward_with_force", mutant)
    single, double = single_and_two_passes("RealNVP", monkeypatch)
    assert relative_gap(single[0], double[0]) > 1e-3


@pytest.mark.parametrize("name", ["RealNVP", "Radial"])
def test_path_gradients_vanish_at_the_target(name, getkey):
    """Where q = p both are zero draw by draw; maximum likelihood is not."""
    guide = bound_flow(name, 3)
    target = pf.from_logdensity(lambda x: guide.log_prob(x), jnp.zeros(3))
    draws = jax.jit(jax.vmap(lambda k: guide.sample_and_log_prob(k)[0]))(jax.random.split(getkey(), 7))
    for gradient in path_gradients(guide, target, draws, getkey()):
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) < 1e-9


@pytest.mark.parametrize("family", ["RealNVP", "FullRank"])
def test_forward_path_gradient_is_unbiased(family, getkey):
    """Its mean over draws of p is that of maximum likelihood; |z| < 6 in every parameter.

    At most 200 parameters are compared: false-alarm rate below 200 * 2e-9.
    """
    target = registry.gaussian_target()
    guide = registry.GUIDES[family].build(target)
    x = registry.MEAN + np.random.default_rng(0).normal(size=(4000, 3)) @ registry.ROOT.T

    @jax.jit
    @jax.vmap
    def gap(x):
        objective = pf.ForwardKL({"a": x[:1], "b": x[None, 1:]})
        both = [g.value_and_grad(jax.random.key(0), objective, target, guide, 1)[1] for g in (pf.Path(), pf.Reparam())]
        flat = [jnp.concatenate([jnp.ravel(leaf)[:40] for leaf in jax.tree.leaves(b.guide)])[:200] for b in both]
        return flat[0] - flat[1], flat[1]

    difference, likelihood = (np.asarray(v) for v in gap(jnp.asarray(x)))
    error = difference.std(0) / np.sqrt(len(x))
    used = error > 1e-12
    assert np.abs(difference.mean(0)[used] / error[used]).max() < 6
    assert_allclose(difference.mean(0)[~used], 0.0, atol=1e-12)
    # The test has power: maximum likelihood's own mean is far from zero.
    assert np.abs(likelihood.mean(0) / (likelihood.std(0) / np.sqrt(len(x)) + 1e-12)).max() > 20


def test_depth_adds_neither_code_nor_activations():
    """One layer's code whatever the depth; with ``checkpoint`` one vector per layer and draw is kept."""
    target, num_draws = standard_normal(4), 64

    def compiled(num_layers):
        guide = pf.RealNVP(num_layers=num_layers, hidden=16, checkpoint=True).bind(target)
        guide = jax.eval_shape(guide.fresh, jax.random.key(0))

        def gradient(guide, key):
            return pf.Path().value_and_grad(key, pf.ELBO(), target, guide, num_draws)[1].guide

        return jax.jit(gradient).lower(guide, jax.eval_shape(jax.random.key, 0)).compile()

    few, many = compiled(4), compiled(36)
    assert len(many.as_text()) < 1.1 * len(few.as_text())
    growth = many.memory_analysis().temp_size_in_bytes - few.memory_analysis().temp_size_in_bytes
    vectors = 32 * num_draws * 4 * 8
    weights = 32 * 8 * 2 * (2 * 16 + 16 + 16 * 16 + 16 + 16 * 4 + 4)
    assert growth < 2 * vectors + 2 * weights


def test_fit_trains_a_flow(getkey):
    """A banana: curved, so that a Gaussian cannot follow it."""

    def banana(x):
        return -0.125 * x[0] ** 2 - 2.0 * (x[1] - 0.5 * x[0] ** 2) ** 2 - jnp.log(2.0 * jnp.pi)

    target = pf.from_logdensity(banana, jnp.zeros(2))
    settings = {"num_steps": 2000, "num_restarts": 1, "num_draws": 256, "progress": False, "key": getkey()}
    posterior = pf.fit(target, pf.RealNVP(num_layers=3, hidden=16), **settings)
    assert isinstance(posterior.guide, pf.RealNVP)
    # The log evidence is zero; the best Gaussian stays at -0.80.
    assert np.max(posterior.data.optimization.restart_elbo.values) > -0.4


def test_flowjax_flow_as_guide(getkey):
    flowjax = pytest.importorskip("flowjax.flows")
    from flowjax.distributions import Normal, StudentT

    def build(key, dim):
        return flowjax.coupling_flow(key, base_dist=Normal(jnp.full(dim, 0.5)), flow_layers=2, nn_width=8)

    target = registry.gaussian_target()
    guide = pf.flow_guide(build).bind(target)
    drawn = [guide.fresh(jax.random.key(seed)) for seed in (1, 2)]
    # Restarts are stacked, so they must agree in all but arrays.
    assert jax.tree.structure(drawn[0]) == jax.tree.structure(drawn[1])

    @jax.jit
    def both(guide, key):
        position, log_q, force = guide.sample_and_force(key)
        return position, log_q, force, AbstractGuide.sample_and_force(guide, key)

    position, log_q, force, two_pass = both(drawn[0], getkey())
    assert_allclose(log_q, build(jax.random.key(1), 3).log_prob(guide.layout.ravel(position)), rtol=1e-10)
    assert relative_gap((position, log_q, force), two_pass) < 1e-10
    with pytest.raises(ValueError, match="expected flowjax's Normal"):
        pf.flow_guide(lambda key, dim: flowjax.coupling_flow(key, base_dist=StudentT(jnp.full(dim, 5.0)))).bind(
            target
        ).fresh(getkey())


def test_layers_come_from_a_key(getkey):
    target = registry.gaussian_target()
    guide = pf.RealNVP(target)
    with pytest.raises(ValueError, match="no layers yet"):
        guide.sample_and_log_prob(getkey())
    one, other = guide.fresh(jax.random.key(1)), guide.fresh(jax.random.key(2))
    assert not jax.tree.all(jax.tree.map(np.array_equal, one.layers, other.layers))
    eps = jnp.asarray([0.3, -1.0, 2.0])
    # Whatever the key, the start is the identity.
    assert_allclose(one.layout.ravel(one.from_noise(eps)[0]), eps, rtol=1e-12)


def test_bad_arguments(getkey):
    target = registry.gaussian_target()
    for build in (lambda: pf.RealNVP(hidden=0), lambda: pf.SplineFlow(bound=-1.0), lambda: pf.Planar(num_layers=1.5)):
        with pytest.raises(ValueError, match="expected"):
            build()
    with pytest.raises(ValueError, match="one more leading axis"):
        pf.Path().value_and_grad(getkey(), pf.ForwardKL(target.example), target, pf.MeanField(target), 2)
    draws = jax.tree.map(lambda x: x[None], target.example)
    with pytest.raises(ValueError, match="cannot recover"):
        pf.Path().value_and_grad(getkey(), pf.ForwardKL(draws), target, pf.LowRank(target), 2)
