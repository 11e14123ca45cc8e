"""SMC: evidence and its error, moves, starts, refusals."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import registry
import scipy.stats
from tiers import fast

import pushforward as pf
from pushforward.samplers.engine import run
from pushforward.samplers.smc import SMC
from pushforward.samplers.smc._leapfrog import Leapfrog

DATA = np.array([0.3, 1.9, 1.1, -0.2])
PRIOR_SD, NOISE_SD = 2.0, 0.7


def conjugate(data=None):
    """A mean mu ~ N(0, 2) and data ~ N(mu, 0.7): evidence in closed form."""
    mu = numpyro.sample("mu", dist.Normal(0.0, PRIOR_SD))
    with numpyro.plate("n", DATA.size):
        numpyro.sample("y", dist.Normal(mu, NOISE_SD), obs=data)


def conjugate_evidence():
    covariance = PRIOR_SD**2 * np.ones((4, 4)) + NOISE_SD**2 * np.eye(4)
    return scipy.stats.multivariate_normal(np.zeros(4), covariance).logpdf(DATA)


@functools.cache
def estimates(adaptive, resampling="multinomial", repeats=1000):
    """Relative errors of the evidence, and their own estimates, of independent runs with 40 particles."""
    target = pf.from_numpyro(conjugate, jnp.asarray(DATA))
    move = Leapfrog(0.5, 2)
    settings = {} if adaptive else {"temperatures": [0.02, 0.1, 0.3, 0.6, 1.0], "adapt": False}
    kernel = SMC(40, move=move, num_moves=1, resampling=resampling, **settings).bind(target, 0)

    def once(key):
        key_start, key_run = jax.random.split(key)
        state = kernel.init(key, kernel.start.draw(key_start, 40))
        keys = jax.random.split(key_run, 12 if adaptive else 5)
        state, _ = jax.lax.scan(lambda s, k: (kernel.step(k, s)[0], None), state, keys)
        return kernel.outcome(state)

    found = jax.jit(jax.vmap(once))(jax.random.split(jax.random.key(11), repeats))
    assert bool(found["converged"].all())
    return np.exp(np.asarray(found["log_evidence"]) - conjugate_evidence()), np.asarray(found["relative_variance"])


@pytest.mark.parametrize("resampling", fast(["multinomial", "systematic", "transport"], "multinomial", "systematic"))
def test_evidence_is_unbiased(resampling):
    """Mean of 1,000 estimates with fixed temperatures and moves against the closed form: |z| < 4.9 (1e-6)."""
    ratio, variance = estimates(False, resampling)
    if resampling == "transport":
        # Descent says that brothers vary together; drawn near their own places they hardly do: the estimate is a bound.
        assert variance.mean() > ratio.var()
    z = (ratio.mean() - 1) / (ratio.std() / np.sqrt(ratio.size))
    assert abs(z) < 4.9
    # Sharp enough to see a term that is missing.
    assert ratio.std() / np.sqrt(ratio.size) < 0.02


@pytest.mark.slow
def test_what_is_adapted_biases_little():
    """Of order 1 / n: with 40 particles at most 3 %."""
    ratio, _ = estimates(True)
    assert abs(ratio.mean() - 1) < 0.03 + 4.9 * ratio.std() / np.sqrt(ratio.size)


def test_error_of_the_evidence_is_estimated_from_one_run():
    """The mean estimated relative variance equals the observed one within 25 % (five standard errors of a variance).

    With systematic resampling the estimate may be larger, by what that scheme saves.
    """
    ratio, variance = estimates(False)
    np.testing.assert_allclose(variance.mean(), ratio.var(), rtol=0.25)
    ratio, variance = estimates(False, "systematic")
    assert 0.75 < variance.mean() / ratio.var() < 2.0


def two_modes(dim=10):
    """Weights 0.3 and 0.7, standard deviations 0.8 and 1, 8.5 apart: the normaliser is one.

    Modes of very different width are a harder matter: at low temperatures the narrow one holds hardly any particle.
    """
    far = jnp.zeros(dim).at[0].set(3.0).at[-1].set(3.0)

    def logdensity(x):
        first = jnp.log(0.3) + jnp.sum(jax.scipy.stats.norm.logpdf(x, -far, 0.8))
        second = jnp.log(0.7) + jnp.sum(jax.scipy.stats.norm.logpdf(x, far, 1.0))
        return jnp.logaddexp(first, second)

    return pf.from_logdensity(logdensity, jnp.zeros(dim))


@pytest.mark.slow
def test_evidence_of_two_modes_in_ten_dimensions(getkey, figure):
    """Log evidence within 0.1 nats, the modes' shares within 0.05."""
    posterior = pf.sample(two_modes(), pf.SMC(4000), key=getkey(), num_steps=200, num_chains=4, progress=False)
    error = abs(posterior.data.attrs["log_evidence"])
    share = float((posterior.draws("x")[:, 0] < 0).mean())
    figure("SMC: log evidence of two modes in 10 dimensions, error in nats", error, "<= 0.1")
    assert error <= 0.1
    assert abs(share - 0.3) < 0.05
    assert posterior.verdict.status == "ok", posterior.verdict.reasons


@pytest.mark.slow
def test_start_from_prior_guide_and_number_give_the_same_evidence(getkey):
    """And the prior is normalised: all three within five standard errors of the closed form."""
    target = pf.from_numpyro(conjugate, jnp.asarray(DATA))
    guide = pf.fit(target, pf.MeanField(), key=getkey(), num_steps=300, progress=False)
    for start in (None, guide, 5.0):
        settings = {"key": getkey(), "num_steps": 50, "num_chains": 2, "progress": False}
        posterior = pf.sample(target, SMC(500, start=start, num_moves=1), **settings)
        attrs = posterior.data.attrs
        assert abs(attrs["log_evidence"] - conjugate_evidence()) < 5 * attrs["log_evidence_error"] + 0.01
        assert "log evidence" in repr(posterior)
    by_init = pf.sample(target, SMC(500, num_moves=1), init=guide, **settings)
    assert by_init.data["optimization"].sizes["step"] == 1, "a fitted Gaussian is already there"
    assert by_init.data["optimization"]["ess"].values.min() > 400


def test_constrained_sites_with_an_enumerated_one(getkey):
    """The prior of a program with a positive and a summed-out site integrates to one on unconstrained space."""

    def model():
        scale = numpyro.sample("scale", dist.Gamma(3.0, 2.0))
        z = numpyro.sample("z", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        numpyro.sample("y", dist.Normal(jnp.where(z == 1, 2.0, -1.0), scale), obs=0.4)

    target = pf.from_numpyro(model)
    start = SMC(10).bind(target, 0).start
    grid = np.linspace(-12, 6, 4001)
    mass = np.trapezoid(np.exp(jax.vmap(start.log_prob)(jnp.asarray(grid)[:, None])), grid)
    np.testing.assert_allclose(mass, 1.0, rtol=1e-5)
    draws = np.exp(start.draw(getkey(), 4000))
    assert scipy.stats.kstest(draws[:, 0], scipy.stats.gamma(3, scale=0.5).cdf).pvalue > 1e-6


def test_prior_that_the_program_scales_stays_normalised():
    """Draws of the prior know nothing of `handlers.scale`, nor does the density that they start from."""

    def model():
        with numpyro.handlers.scale(scale=3.0):
            numpyro.sample("x", dist.Normal(1.0, 2.0))
        numpyro.sample("y", dist.Normal(0.0, 1.0), obs=0.4)

    start = SMC(10).bind(pf.from_numpyro(model), 0).start
    np.testing.assert_allclose(start.log_prob(jnp.asarray([0.3])), scipy.stats.norm(1.0, 2.0).logpdf(0.3))


@pytest.mark.slow
def test_ensembles_as_moves_do_not_see_who_does_not_count(getkey):
    kernel = SMC(8, move=pf.ALDI(8)).bind(registry.gaussian_target(), 0)
    x, alive, key, one = jax.random.normal(getkey(), (8, 3)), jnp.arange(8) != 7, getkey(), jnp.ones(())
    moves = jax.jit(lambda x: kernel._moves(key, kernel.kernel.target.at(one, *_round(3), one), x, alive, one)[0])
    np.testing.assert_allclose(moves(x.at[7].set(9.0))[:7], moves(x)[:7], rtol=1e-12)


def _round(dim):
    return jnp.zeros(dim), jnp.eye(dim)


@pytest.mark.slow
@pytest.mark.parametrize("move", [pf.NUTS(step_size=0.5, max_tree_depth=4), pf.ALDI(400, step_size=0.05)])
def test_other_samplers_move_too(move, getkey):
    posterior = pf.sample(registry.gaussian_target(), SMC(400, move=move), key=getkey(), num_steps=40, progress=False)
    sd = np.sqrt(np.diag(registry.COVARIANCE))
    draws = np.concatenate([posterior.draws("a")[:, None], posterior.draws("b")], axis=1)
    np.testing.assert_allclose((draws.mean(0) - registry.MEAN) / sd, 0, atol=0.25)
    np.testing.assert_allclose(draws.std(0) / sd, 1, atol=0.2)
    assert abs(posterior.data.attrs["log_evidence"] - registry.LOG_EVIDENCE) < 0.3


def test_scale_follows_acceptance(getkey):
    """Moves far too long for the target are shortened until they are accepted."""
    move = Leapfrog(3.0, 3)
    posterior = pf.sample(
        registry.gaussian_target(), SMC(500, move=move, num_moves=8), key=getkey(), num_steps=40, progress=False
    )
    record = posterior.data["optimization"]
    assert record["scale"].values[0, -1] < 0.7
    assert record["acceptance_rate"].values[0, -1] > 0.7


def test_too_few_steps_are_reported(getkey):
    posterior = pf.sample(two_modes(), SMC(50), key=getkey(), num_steps=1, progress=False)
    assert posterior.verdict.status == "doubtful"
    assert not posterior.data["optimization"]["converged"].values.any()


def test_clouds_do_not_wait_for_each_other(getkey):
    """A cloud that has arrived rests: its result is that of a run of its own length."""
    kernel = SMC(60, num_moves=1).bind(registry.gaussian_target(), 0)
    key = getkey()
    state = kernel.init(key, kernel.start.draw(getkey(), 60))
    alone = run(kernel, state, key=key, num_steps=100)
    held, _ = kernel.step(getkey(), alone.state)
    assert alone.step < 100
    np.testing.assert_array_equal(held.particles, alone.state.particles)
    assert held.memory.log_evidence == alone.state.memory.log_evidence


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SMC(1), "num_particles=1"),
        (lambda: SMC(10, move=pf.SVGD(10)), "leaves the tempered density invariant"),
        (lambda: SMC(10, move=pf.NUTS()), "fixed step size"),
        (lambda: SMC(10, move=pf.ALDI(20)), "Expected as many of them, pf.ALDI\\(10\\)"),
        (lambda: SMC(10, move=pf.EntropyMCMC(0.1)), "another density by design"),
        (lambda: SMC(10, num_moves=0), "num_moves=0"),
        (lambda: SMC(10, ess_fraction=1.5), "ess_fraction=1.5"),
        (lambda: SMC(10, temperatures=[0.5, 0.4, 1.0]), "increasing sequence"),
        (lambda: SMC(10, temperatures=[0.5]), "ends in 1"),
        (lambda: SMC(10, resampling="sorted"), "resampling='sorted'"),
        (lambda: SMC(10, start="prior").bind(registry.gaussian_target(), 0), "start='prior'"),
        (lambda: SMC(10, start=pf.Delta(two_modes())).bind(two_modes(), 0), "point mass"),
        (lambda: SMC(10, start=pf.MeanField(two_modes())).bind(registry.gaussian_target(), 0), "those of the target"),
    ],
)
def test_bad_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
