"""`pf.marginal` and `pf.normalize` per plate element, with minibatches and amortised guides, and inside models.

Everything is linear and Gaussian, so that densities, bounds and their gradients are known.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from oracles import k_draws
from scipy.stats import norm
from tiers import fast

import pushforward as pf
from pushforward.estimators.gradients import resolve_gradient

X = np.array([0.6, -1.1, 1.9, 0.2])
NOISE = 0.7
"""Model: z ~ N(0, 1), x | z ~ N(z, NOISE)."""
AT = {"a": 0.4, "log_b": -0.5, "log_c": -0.8}
"""Guide: u ~ N(a x, b), z | u ~ N(u, c), so that z ~ N(a x, sqrt(b^2 + c^2))."""
REPEATS = 10_000
LIMIT = norm.isf(1e-6 / (2 * 60))
"""In standard errors; one false alarm in a million for this file."""


def gaussian(value, mean, variance):
    return -0.5 * np.log(2 * np.pi * variance) - 0.5 * (value - mean) ** 2 / variance


def model(x, size):
    with numpyro.plate("data", len(X), subsample_size=size):
        local(numpyro.subsample(x, event_dim=0))


def local(x):
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    numpyro.sample("x", dist.Normal(z, NOISE), obs=x)


def parameters():
    a, log_b, log_c = (numpyro.param(name, value) for name, value in AT.items())
    return a, jnp.exp(log_b), jnp.exp(log_c)


def two_steps(x):
    a, b, c = parameters()
    u = numpyro.sample("u", dist.Normal(a * x, b))
    numpyro.sample("z", dist.Normal(u, c))


def conditional(kept, x):
    """The exact law of u given z."""
    a, b, c = parameters()
    precision = 1 / b**2 + 1 / c**2
    numpyro.sample("u", dist.Normal((a * x / b**2 + kept["z"] / c**2) / precision, precision**-0.5))


def hierarchical(proposal, num_particles):
    program = pf.marginal(two_steps, over="u", proposal=proposal, num_particles=num_particles)

    def guide(x, size):
        with numpyro.plate("data", len(X), subsample_size=size):
            program(numpyro.subsample(x, event_dim=0))

    return guide


def bound(guide, size, program=model):
    target = pf.from_numpyro(program, jnp.asarray(X), size)
    return target, pf.program_guide(guide).bind(target)


def measure(target, guide, gradient, objective, key, num_particles=2):
    """Mean and standard error of the value and of all gradients, over draws and minibatches."""
    estimator = resolve_gradient(gradient, guide, objective)
    estimator.check(objective, target, guide, num_particles)
    estimator = estimator.bind(target, guide)

    def one(key):
        key_batch, key_draws = jax.random.split(key)
        batch = target.minibatch(key_batch) if target.subsampled else None
        found, steps = estimator.value_and_grad(key_draws, objective, target, guide, num_particles, batch)
        return {"value": found.value, **steps.guide.params, **steps.model}

    draws = jax.jit(jax.vmap(one))(jax.random.split(key, REPEATS))
    return {name: (float(x.mean()), float(x.std()) / REPEATS**0.5) for name, x in draws.items()}


def assert_close(found, truth):
    for name, exact in truth.items():
        mean, error = found[name]
        assert abs(mean - exact) < LIMIT * error + 1e-9, (name, mean, error, exact)
        assert error < 0.05 * max(1.0, *map(abs, truth.values())), (name, error)


def derivatives(function, names):
    """A function of named numbers, and minus its gradient, at `AT`."""
    at = np.array([AT[name] for name in names])
    gradient = k_draws.derivative(lambda v: float(function(**dict(zip(names, v, strict=True)))), at)
    return {"value": float(function(**AT)), **dict(zip(names, -gradient, strict=True))}


# -- guides --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", fast([(None, 1), (2, 1), (2, 2)], (2, 2)))
def test_exact_reverse_kernel_gives_the_marginal_density(setting, getkey):
    size, num_particles = setting
    target, guide = bound(hierarchical(conditional, num_particles), size)
    batch = target.minibatch(getkey()) if size else None
    position, log_q = jax.jit(lambda key: guide.sample_and_log_prob(key, batch))(getkey())
    index = np.arange(len(X)) if batch is None else np.asarray(batch["data"])
    z = np.asarray(position["z"])[index]
    variance = np.exp(2 * AT["log_b"]) + np.exp(2 * AT["log_c"])
    exact = len(X) / len(index) * gaussian(z, AT["a"] * X[index], variance).sum()
    assert float(log_q) == pytest.approx(exact, abs=1e-9)


def hierarchical_bound(a, log_b, log_c):
    """E log p(z, x) - log q(z | u): what is left with the prior of u as reverse kernel and one particle."""
    variance = np.exp(2 * log_b) + np.exp(2 * log_c)
    log_p = -0.5 * ((a * X) ** 2 + variance) - 0.5 * ((X - a * X) ** 2 + variance) / NOISE**2
    return (log_p - np.log(2 * np.pi * NOISE) + 0.5 * np.log(2 * np.pi * np.e) + log_c).sum()


@pytest.mark.parametrize("name", fast(["Path", "Reparam", "Score"], "Path"))
def test_hierarchical_bound_and_gradient_in_a_minibatch_plate(name, getkey):
    target, guide = bound(hierarchical(None, 1), 2)
    found = measure(target, guide, getattr(pf, name)(), pf.ELBO(), getkey())
    assert_close(found, derivatives(hierarchical_bound, list(AT)))


@pytest.mark.slow
@pytest.mark.parametrize("size", [None, 2])
def test_importance_weighted_objective_is_per_datum(size, getkey):
    """With the exact reverse kernel DIWHVI is the IWELBO of the marginal, datum by datum."""

    def iwelbo(a, log_b, log_c):
        variance = np.exp(2 * log_b) + np.exp(2 * log_c)

        def one(x):
            def weights(eps):
                z = a * x + variance**0.5 * eps
                log_p = gaussian(z, 0.0, 1.0) + gaussian(x, z, NOISE**2)
                return k_draws.power_mean(log_p - gaussian(z, a * x, variance), 1.0)

            return float(k_draws.expectation(weights, 3, 24))

        return sum(one(x) for x in X)

    target, guide = bound(hierarchical(conditional, 1), size)
    found = measure(target, guide, pf.Path(), pf.IWELBO(), getkey(), 3)
    assert_close(found, derivatives(iwelbo, list(AT)))


def encoder(x):
    a, b, _ = parameters()
    numpyro.sample("z", dist.Normal(a * x, b))


@pytest.mark.parametrize("size", fast([None, 2], 2))
def test_normalize_in_a_plate_is_the_importance_weighted_bound_per_datum(size, getkey):
    program = pf.normalize(local, proposal=encoder, num_particles=2)

    def guide(x, size):
        with numpyro.plate("data", len(X), subsample_size=size):
            program(numpyro.subsample(x, event_dim=0))

    def iwelbo(a, log_b, log_c=0.0):
        def one(x):
            def weights(eps):
                z = a * x + np.exp(log_b) * eps
                log_p = gaussian(z, 0.0, 1.0) + gaussian(x, z, NOISE**2)
                return k_draws.power_mean(log_p - gaussian(z, a * x, np.exp(2 * log_b)), 1.0)

            return float(k_draws.expectation(weights, 2, 24))

        return sum(one(x) for x in X)

    target, bound_guide = bound(guide, size)
    found = measure(target, bound_guide, {"normalize/z": pf.Enumerate()}, pf.ELBO(), getkey())
    assert_close(found, derivatives(iwelbo, ["a", "log_b"]))


# -- models --------------------------------------------------------------------------------------------------------

SPREAD = 0.6
"""u | z ~ N(z, SPREAD), x | u ~ N(u, NOISE): with u integrated out, x | z ~ N(z, sqrt(SPREAD^2 + NOISE^2))."""


def chain(x):
    spread = numpyro.param("spread", SPREAD)
    z = numpyro.sample("z", dist.LogNormal(0.0, 1.0))
    u = numpyro.sample("u", dist.Normal(z, spread))
    numpyro.sample("x", dist.Normal(u, NOISE), obs=x)


def posterior_of_u(kept, x):
    spread = numpyro.param("spread", SPREAD)
    precision = 1 / spread**2 + 1 / NOISE**2
    mean = (kept["z"] / spread**2 + kept["x"] / NOISE**2) / precision
    numpyro.sample("u", dist.Normal(mean, precision**-0.5))


def wide(kept, x):
    numpyro.sample("u", dist.Cauchy(kept["x"], 1.0))


def integrated(proposal, num_particles, size=None):
    program = pf.marginal(chain, over="u", proposal=proposal, num_particles=num_particles)

    def model(x, size):
        with numpyro.plate("data", x.shape[0], subsample_size=size):
            program(numpyro.subsample(x, event_dim=0))

    return model


def split_noise(position):
    return {k: v for k, v in position.items() if "@" in k}


@pytest.mark.parametrize("setting", fast([(None, 1), (2, 3)], (2, 3)))
def test_model_with_the_exact_conditional_has_the_exact_density(setting, getkey):
    size, num_particles = setting
    target = pf.from_numpyro(integrated(posterior_of_u, num_particles), jnp.asarray(X), size)
    assert {s.name for s in target.program.latents} == {"z", *(f"u@{i}" for i in range(num_particles))}
    position = jax.jit(target.prior)(getkey())
    position = target.unconstrain({k: position[k] for k in target.example})
    batch = target.minibatch(getkey()) if size else None
    index = np.arange(len(X)) if batch is None else np.asarray(batch["data"])
    log_z = np.asarray(position["z"])[index]
    exact = gaussian(log_z, 0.0, 1.0) + gaussian(X[index], np.exp(log_z), SPREAD**2 + NOISE**2)
    for noise in split_noise(position).values():
        exact = exact + gaussian(np.asarray(noise)[index], 0.0, 1.0)
    found = float(jax.jit(target.logdensity)(position, batch))
    assert found == pytest.approx(len(X) / len(index) * exact.sum(), abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("setting", [(None, 1), (None, 2), (wide, 2)])
def test_model_density_is_unbiased_and_its_log_is_low(setting):
    """Expectation over the noise, by quadrature, at one z; the prior of u and a Cauchy law as proposals."""
    proposal, num_particles = setting
    target = pf.from_numpyro(integrated(proposal, num_particles), jnp.asarray(X[:1]), None)
    if proposal is None:
        nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    else:
        # Midpoints of the noise's distribution function: the transformed proposal has heavy tails.
        nodes, weights = norm.ppf((np.arange(400) + 0.5) / 400), np.ones(400)
    grid = np.stack(np.meshgrid(*[nodes] * num_particles, indexing="ij"), -1).reshape(-1, num_particles)
    mass = np.prod(np.stack(np.meshgrid(*[weights] * num_particles, indexing="ij"), -1).reshape(-1, num_particles), -1)
    log_z = 0.3

    def one(eps):
        position = {"z": jnp.full((1,), log_z), **{f"u@{i}": eps[i : i + 1] for i in range(num_particles)}}
        return target.logdensity(position) - jnp.sum(jax.scipy.stats.norm.logpdf(eps))

    log_p = np.asarray(jax.jit(jax.vmap(one))(jnp.asarray(grid)))
    exact = gaussian(log_z, 0.0, 1.0) + gaussian(X[0], np.exp(log_z), SPREAD**2 + NOISE**2)
    mass = mass / mass.sum()
    assert np.vdot(mass, np.exp(log_p - exact)) == pytest.approx(1.0, abs=1e-6 if proposal is None else 1e-4)
    gap = exact - np.vdot(mass, log_p)
    relative = np.vdot(mass, np.exp(2 * (log_p - exact))) - 1.0
    assert 0.2 * relative < gap
    # The Cauchy law draws far out, where the logarithm of the estimate has no mean to speak of.
    assert proposal is wide or gap < 2.0 * relative


def amortised(x, size):
    a, b, _ = parameters()
    with numpyro.plate("data", len(X), subsample_size=size):
        numpyro.sample("z", dist.LogNormal(a * numpyro.subsample(x, event_dim=0), b))


@pytest.mark.parametrize("name", fast(["Path", "Score"], "Path"))
def test_bound_and_gradients_of_an_integrated_model(name, getkey):
    """Amortised guide, minibatches; the model's parameter is used by the program and by its proposal."""

    def elbo(a, log_b, log_c=0.0, spread=SPREAD):
        mean, variance = a * X, np.exp(2 * log_b)
        moment, second = np.exp(mean + variance / 2), np.exp(2 * mean + 2 * variance)
        scale = spread**2 + NOISE**2
        log_p = -0.5 * np.log(2 * np.pi * scale) - 0.5 * (X**2 - 2 * X * moment + second) / scale
        return (log_p - 0.5 * (mean**2 + variance) + log_b + 0.5).sum()

    target = pf.from_numpyro(integrated(posterior_of_u, 2), jnp.asarray(X), 2)
    guide = pf.program_guide(amortised).bind(target)
    assert sorted(guide.params) == ["a", "log_b", "log_c"]
    found = measure(target, guide, getattr(pf, name)(), pf.ELBO(), getkey(), 4)
    slope = k_draws.derivative(lambda v: elbo(AT["a"], AT["log_b"], spread=v[0]), np.array([SPREAD]))
    assert_close(found, {**derivatives(elbo, ["a", "log_b"]), "spread": -slope[0]})


@pytest.mark.slow
def test_parameter_of_a_proposal_is_learned_through_its_draws(getkey):
    """One particle from a proposal of learnable location: the bound's gradient in it is known."""

    def shifted(kept, x):
        numpyro.sample("u", dist.Normal(kept["z"] + numpyro.param("shift", 0.3), SPREAD))

    def known(x):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        u = numpyro.sample("u", dist.Normal(z, SPREAD))
        numpyro.sample("x", dist.Normal(u, NOISE), obs=x)

    program = pf.marginal(known, over="u", proposal=shifted)
    target = pf.from_numpyro(program, jnp.asarray(X[0]))
    guide = pf.program_guide(lambda x: numpyro.sample("z", dist.Normal(0.5, 0.4))).bind(target)
    found = measure(target, guide, pf.Path(), pf.ELBO(), getkey())
    # E log p(u | z) / r(u | z) = -shift^2 / (2 SPREAD^2), E log p(x | u) has u of mean E z + shift.
    assert_close(found, {"shift": 0.3 / SPREAD**2 - (X[0] - 0.5 - 0.3) / NOISE**2})


@pytest.mark.slow
def test_samplers_are_exact_whatever_the_proposal(getkey):
    """A poor proposal, two particles: the marginal of z under the noise-augmented density is its posterior."""

    def known(x):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        u = numpyro.sample("u", dist.Normal(z, SPREAD))
        numpyro.sample("x", dist.Normal(u, NOISE), obs=x)

    target = pf.from_numpyro(pf.marginal(known, over="u", num_particles=2), jnp.asarray(1.5))
    posterior = pf.sample(target, pf.NUTS(), key=getkey(), num_steps=4000, num_warmup=500, num_chains=4, progress=False)
    z = posterior.draws("z")
    variance = 1 / (1 + 1 / (SPREAD**2 + NOISE**2))
    error = float(posterior.summary().loc["z", "mcse_mean"])
    assert abs(float(np.mean(z)) - variance * 1.5 / (SPREAD**2 + NOISE**2)) < 5 * error
    assert abs(float(np.std(z)) / variance**0.5 - 1) < 0.05


def discrete(x):
    k = numpyro.sample("k", dist.Poisson(2.0))
    numpyro.sample("x", dist.Normal(k, 1.0), obs=x)


def moving(x):
    u = numpyro.sample("u", dist.Uniform(1.0, 2.0))
    z = numpyro.sample("z", dist.Uniform(0.0, u))
    numpyro.sample("x", dist.Normal(z, 1.0), obs=x)


def enumerated(x):
    u = numpyro.sample("u", dist.Normal(0.0, 1.0))
    k = numpyro.sample("k", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
    numpyro.sample("x", dist.Normal(u + k, 1.0), obs=x)


REFUSED = {
    "discrete": (pf.marginal(discrete, over="k"), r"site 'k' \(Poisson\) is discrete"),
    "no inverse": (
        pf.marginal(chain, over="u", proposal=lambda kept, x: numpyro.sample("u", dist.StudentT(3.0))),
        r"site 'u' \(StudentT\) has no inverse",
    ),
    "support": (pf.marginal(moving, over="u"), "support of the latent site 'z' depends"),
    "enumerated": (pf.marginal(enumerated, over="u"), "'k' is enumerated inside"),
    "unknown": (pf.marginal(chain, over="w"), r"draws no site \['w'\]"),
    "absent": (pf.marginal(chain, over="u", proposal=lambda kept, x: None), "does not draw"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_refusals(name):
    program, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        pf.from_numpyro(program, jnp.asarray(1.0))


@pytest.mark.slow
def test_what_an_integrated_model_cannot_say(getkey):
    target = pf.from_numpyro(pf.marginal(chain, over="u"), jnp.asarray(1.0))
    position: Any = target.initial(getkey())
    with pytest.raises(ValueError, match="pointwise log-likelihood does not exist"):
        target.log_likelihood(position)
    with pytest.raises(ValueError, match="cannot be simulated at given"):
        target.predict(getkey(), position)
    # The prior predictive is that of the program as written.
    x = jax.vmap(lambda k: target.prior(k)["x"])(jax.random.split(getkey(), 4000))
    moment, second = np.exp(0.5), np.exp(2.0)
    variance = second - moment**2 + SPREAD**2 + NOISE**2
    assert abs(float(x.mean()) - moment) < LIMIT * (variance / 4000) ** 0.5
