"""Sleep phase: gradients against closed forms of linear-Gaussian and two-component models, optima, and refusals."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from scipy import integrate, special
from scipy.stats import norm
from tiers import fast

import pushforward as pf
from pushforward.estimators.gradients import _simulated, resolve_gradient

SLOPE, SHIFT, NOISE = 1.3, -0.4, 0.8
"""z ~ N(0, 1), x | z ~ N(SLOPE z + SHIFT, NOISE)."""
X = np.array([0.3, -1.2, 2.0, 0.7, -0.1])
AT = {"w": 0.2, "c": 0.5, "log_scale": -0.3}
"""Where the guide z | x ~ N(w x + c, exp(log_scale)) is when gradients are taken."""
REPEATS, PARTICLES = 20_000, 2
LIMIT = norm.isf(1e-6 / (2 * 16))
"""In standard errors; one false alarm in a million for this file."""


def model(x, subsample_size=None):
    shift = numpyro.param("shift", SHIFT)
    with numpyro.plate("data", len(X), subsample_size=subsample_size):
        batch = numpyro.subsample(x, event_dim=0)
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(SLOPE * z + shift, NOISE), obs=batch)


def guide(x, subsample_size=None):
    w, c, log_scale = (numpyro.param(name, value) for name, value in AT.items())
    with numpyro.plate("data", len(X), subsample_size=subsample_size):
        batch = numpyro.subsample(x, event_dim=0)
        numpyro.sample("z", dist.Normal(w * batch + c, jnp.exp(log_scale)))


def closed_form(w: float, c: float, log_scale: float) -> tuple[float, dict[str, float]]:
    """Mean log-weight at joint draws of all data, and the gradient of minus E log q."""
    power, residual = SLOPE**2 + NOISE**2, w * SHIFT + c
    square = 1.0 - 2.0 * w * SLOPE + w**2 * power + residual**2
    precision = np.exp(-2.0 * log_scale)
    evidence = -0.5 * np.log(2 * np.pi * np.e * power)
    divergence = log_scale - 0.5 * np.log(NOISE**2 / power) + 0.5 * precision * square - 0.5
    gradient = {
        "w": precision * (w * power - SLOPE + residual * SHIFT),
        "c": precision * residual,
        "log_scale": 1.0 - precision * square,
    }
    return len(X) * (evidence + divergence), {k: len(X) * v for k, v in gradient.items()}


def bound(subsample_size=None, *own):
    target = pf.from_numpyro(model, jnp.asarray(X), subsample_size)
    return target, pf.program_guide(guide, *own).bind(target)


def measure(target: Any, guide: Any, objective: Any, key: Any, num_particles: int = PARTICLES) -> dict[str, Any]:
    """Mean and standard error of value and gradients over many keys."""
    gradient = resolve_gradient(None, guide, objective)
    gradient.check(objective, target, guide, num_particles)
    gradient = gradient.bind(target, guide)

    def one(key):
        key_batch, key_draws = jax.random.split(key)
        batch = target.minibatch(key_batch) if target.subsampled else None
        found, steps = gradient.value_and_grad(key_draws, objective, target, guide, num_particles, batch)
        return {"value": found.value, "loss": found.loss, **steps.guide.params, **steps.model}

    draws = jax.jit(jax.vmap(one))(jax.random.split(key, REPEATS))
    return {name: (float(x.mean()), float(x.std()) / REPEATS**0.5) for name, x in draws.items()}


def deviations(found: dict[str, Any], truth: dict[str, float]) -> dict[str, float]:
    return {name: abs(found[name][0] - value) / found[name][1] for name, value in truth.items()}


@pytest.mark.parametrize("subsample_size", fast([None, 2], 2))
def test_gradient_is_unbiased_and_the_model_rests(subsample_size, getkey):
    found = measure(*bound(subsample_size), pf.ForwardKL(phase="sleep"), getkey())
    value, gradient = closed_form(**AT)
    assert max(deviations(found, {"value": value, "loss": value, **gradient}).values()) < LIMIT
    assert all(found[name][1] < 0.02 * max(map(abs, gradient.values())) for name in gradient)
    assert found["shift"] == (0.0, 0.0)


@pytest.mark.parametrize("fault", fast(["real data", "flipped sign", "missing 1/K", "lost plate scale"], "real data"))
def test_mutant_is_seen(fault, getkey, monkeypatch):
    log_guide, factor = _simulated.log_guide, {"flipped sign": -1.0, "missing 1/K": 2.0, "lost plate scale": 0.4}
    from pushforward.estimators.gradients import _sleep

    if fault == "real data":
        monkeypatch.setattr(_simulated, "_dreaming", lambda guide, *others: guide)
        monkeypatch.setattr(_sleep, "check_guide", lambda *others: None)
    else:
        monkeypatch.setattr(_sleep, "log_guide", lambda *a: factor[fault] * log_guide(*a))
    found = measure(*bound(2), pf.ForwardKL(phase="sleep"), getkey())
    assert max(deviations(found, closed_form(**AT)[1]).values()) > 2 * LIMIT


def test_wake_sleep_moves_the_model_by_its_bound(getkey):
    """With one particle the model's gradient is that of the ELBO at the observed data."""
    found = measure(*bound(2), pf.ForwardKL(phase="wake-sleep"), getkey(), 1)
    z = AT["w"] * X + AT["c"]
    variance = np.exp(2 * AT["log_scale"])
    residual = X - SLOPE * z - SHIFT
    elbo = -0.5 * (residual**2 + SLOPE**2 * variance) / NOISE**2 - np.log(NOISE) - 0.5 * (z**2 + variance)
    elbo = elbo + AT["log_scale"] + 0.5 - 0.5 * np.log(2 * np.pi)
    truth = {"shift": -(residual / NOISE**2).sum(), "value": elbo.sum(), "loss": -elbo.sum(), **closed_form(**AT)[1]}
    assert max(deviations(found, truth).values()) < LIMIT


@pytest.mark.slow
def test_optimum_is_the_posterior_for_every_datum(getkey):
    w = SLOPE / (SLOPE**2 + NOISE**2)
    best = {"w": w, "c": -w * SHIFT, "log_scale": 0.5 * np.log(1.0 - w * SLOPE)}
    assert max(map(abs, closed_form(**best)[1].values())) < 1e-12
    target = pf.from_numpyro(model, jnp.asarray(X), 2)
    fitted = pf.fit(
        target,
        pf.program_guide(guide),
        objective=pf.ForwardKL(phase="sleep"),
        optimizer=optax.adam(optax.cosine_decay_schedule(0.05, 1000)),
        num_restarts=1,
        num_steps=1000,
        num_particles=16,
        num_draws=100,
        key=getkey(),
        progress=False,
    )
    found = fitted.guide.param_values()
    for name, value in best.items():
        assert abs(float(found[name]) - value) < 0.02, (name, found[name], value)
    assert float(fitted.data["model_parameters"]["shift"]) == SHIFT


@pytest.mark.slow
def test_discrete_latents(getkey):
    """Latent z ~ Bernoulli, x | z normal: the guide's logit against quadrature over x, and zero at the posterior."""
    prior, centre = 0.3, 1.2

    def model(x):
        with numpyro.plate("data", 3):
            z = numpyro.sample("z", dist.Bernoulli(prior))
            numpyro.sample("x", dist.Normal(centre * z, 1.0), obs=x)

    def guide(x):
        w, c = numpyro.param("w", 0.4), numpyro.param("c", -0.2)
        with numpyro.plate("data", 3):
            numpyro.sample("z", dist.Bernoulli(logits=w * x + c))

    target = pf.from_numpyro(model, jnp.asarray(X[:3]))
    family = pf.program_guide(guide).bind(target)

    def exact(w, c, power):
        def integrand(x):
            one, zero = prior * norm.pdf(x, centre), (1 - prior) * norm.pdf(x)
            probability = special.expit(w * x + c)
            return x**power * ((one + zero) * probability - one)

        return 3 * integrate.quad(integrand, -12, 12)[0]

    found = measure(target, family, pf.ForwardKL(phase="sleep"), getkey())
    assert max(deviations(found, {"w": exact(0.4, -0.2, 1), "c": exact(0.4, -0.2, 0)}).values()) < LIMIT
    posterior = centre, np.log(prior / (1 - prior)) - centre**2 / 2
    assert abs(exact(*posterior, 1)) + abs(exact(*posterior, 0)) < 1e-10


@pytest.mark.slow
def test_where_the_data_goes(getkey):
    """Equal arguments need a name; a guide's own arguments are matched by value; all give the same numbers."""
    key, x = getkey(), jnp.asarray(X)

    def twice(x, copy):
        model(x)

    def encoder(x, copy):
        guide(x)

    objective = pf.ForwardKL(phase="sleep")
    expected = measure(*bound(None), objective, key)
    target = pf.from_numpyro(twice, x, jnp.array(X))
    family = pf.program_guide(encoder).bind(target)
    with pytest.raises(ValueError, match=r"\['x', 'copy'\] all have the value"):
        measure(target, family, objective, key)
    named = pf.ForwardKL(phase="sleep", data={"x": "x"})
    assert measure(target, family, named, key) == expected
    assert measure(*bound(None, x), objective, key) == expected


def unamortised(x):
    with numpyro.plate("data", len(X)):
        numpyro.sample("z", dist.Normal(numpyro.param("loc", jnp.zeros(len(X))), 1.0))


def with_global(x):
    mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
    with numpyro.plate("data", len(X), subsample_size=2):
        z = numpyro.sample("z", dist.Normal(mean, 1.0))
        numpyro.sample("x", dist.Normal(z, 1.0), obs=numpyro.subsample(x, event_dim=0))


def empirical(x):
    with numpyro.plate("data", len(X)):
        z = numpyro.sample("z", dist.Normal(jnp.mean(x), 1.0))
        numpyro.sample("x", dist.Normal(z, 1.0), obs=x)


def logarithmic(x):
    with numpyro.plate("data", len(X)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(z, 1.0), obs=jnp.sinh(x))


def with_factor(x):
    model(x)
    numpyro.factor("extra", 0.3)


def tempered(x):
    with numpyro.handlers.scale(scale=0.5):
        model(x)


def improper(x):
    with numpyro.plate("data", len(X)):
        z = numpyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.sample("x", dist.Normal(z, 1.0), obs=x)


def reads_all(x):
    with numpyro.plate("data", len(X), subsample_size=2) as index:
        numpyro.sample("z", dist.Normal(numpyro.param("w", 0.1) * x[index] + jnp.mean(x), 1.0))


def any_guide(x):
    w = numpyro.param("w", 0.1)
    numpyro.sample("mean", dist.Normal(w * jnp.sum(x), 1.0))
    with numpyro.plate("data", len(X), subsample_size=2):
        numpyro.sample("z", dist.Normal(w * numpyro.subsample(x, event_dim=0), 1.0))


REFUSED = {
    "no amortisation": (model, unamortised, r"site\(s\) \['z'\] of the guide look at no data"),
    "Gaussian guide": (model, pf.MeanField(), "MeanField does not take data"),
    "global latent with minibatches": (with_global, any_guide, r"site\(s\) \['mean'\].* do not lie in all of them"),
    "data in the prior": (empirical, guide, r"site\(s\) \['x', 'z'\].* depend on the data itself"),
    "transformed data": (logarithmic, guide, "no argument has the value"),
    "factor": (with_factor, guide, r"factor\(s\) \['extra'\]"),
    "scale": (tempered, guide, "scaled by a handler"),
    "improper prior": (improper, guide, "cannot be simulated"),
    "data outside the minibatch": (lambda x: model(x, 2), reads_all, "reads data outside it"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_refusals(name):
    program, family, message = REFUSED[name]
    target = pf.from_numpyro(program, jnp.asarray(X))
    bound_guide = (family if isinstance(family, pf.MeanField) else pf.program_guide(family)).bind(target)
    objective = pf.ForwardKL(phase="sleep")
    with pytest.raises(ValueError, match=message):
        resolve_gradient(None, bound_guide, objective).check(objective, target, bound_guide, 2)


def test_refusals_of_settings():
    objective = pf.ForwardKL(phase="sleep")
    target, family = bound()
    for gradient in (pf.Path(), {"z": pf.Score()}, pf.Reparam(draws="sobol")):
        with pytest.raises(ValueError, match="maximum likelihood"):
            resolve_gradient(gradient, family, objective)
    density = pf.from_logdensity(lambda z: -0.5 * z @ z, jnp.zeros(2))
    gradient = resolve_gradient(None, family, objective)
    with pytest.raises(ValueError, match="no NumPyro program"):
        gradient.check(objective, density, family, 2)
    weighted = target.scaled({"x": 0.5})
    with pytest.raises(ValueError, match=r"weights of the sites \['x'\]"):
        gradient.check(objective, weighted, family, 2)
    with pytest.raises(ValueError, match="brings|simulates its draws"):
        pf.Reparam().value_and_grad(jax.random.key(0), objective, density, pf.MeanField(density), 2)
    for bad, message in (
        ({"phase": "dream"}, "expected one of"),
        ({"phase": "sleep", "draws": jnp.zeros((3, 2))}, "not both"),
        ({"data": {"x": "x"}}, "simulates none"),
        ({"phase": "sleep", "data": {"x": 3}}, "name of the model's argument"),
    ):
        with pytest.raises(ValueError, match=message):
            pf.ForwardKL(**bad)
    named = resolve_gradient(None, family, pf.ForwardKL(phase="sleep", data={"x": "nothing"}))
    with pytest.raises(ValueError, match="expected an argument of"):
        named.check(objective, target, family, 2)
