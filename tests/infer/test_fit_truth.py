"""No silent failure: exact answers where they exist, `doubtful` where the guide cannot be right, else a named stop."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from tiers import fast

import pushforward as pf


def normal_mean(x):
    mu = numpyro.sample("mu", dist.Normal(0.0, 20.0))
    numpyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def exact_normal_mean(x):
    variance = 1.0 / (len(x) + 1.0 / 400.0)
    return variance * x.sum(), variance**0.5


@pytest.mark.parametrize(("location", "count"), fast([(8.0, 10), (-300.0, 3), (0.5, 10_000)], (8.0, 10), several=True))
def test_conjugate_normal_with_defaults(location, count, getkey):
    x = np.random.default_rng(0).normal(location, 1.0, count)
    posterior = pf.fit(pf.from_numpyro(normal_mean, x), key=getkey(), progress=False)
    mean, sd = exact_normal_mean(x)
    assert abs(float(posterior.guide.loc[0]) - mean) < 0.02 * sd
    assert abs(float(posterior.guide.covariance()[0, 0]) ** 0.5 / sd - 1) < 0.01
    assert posterior.verdict.status == "ok", posterior.verdict.reasons


def regression(x, y):
    w = numpyro.sample("w", dist.Normal(0.0, 10.0).expand([x.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Normal(x @ w, 2.0), obs=y)


@pytest.mark.parametrize("guide", fast([None, pf.LowRank(rank=3), pf.Laplace()], None))
def test_conjugate_regression_in_awkward_units(guide, getkey):
    """Correlated columns of scales 0.01 to 1000: mean, and every covariance entry."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=(60, 3))
    x = (z + 0.8 * z[:, :1]) * np.array([1.0, 1000.0, 0.01])
    y = x @ [0.5, 0.001, 3.0] + 2.0 * rng.normal(size=60)
    posterior = pf.fit(pf.from_numpyro(regression, x, y), guide, key=getkey(), progress=False)
    covariance = np.linalg.inv(x.T @ x / 4.0 + np.eye(3) / 100.0)
    mean, sd = covariance @ x.T @ y / 4.0, np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((np.asarray(posterior.guide.loc) - mean) / sd, 0.0, atol=0.02)
    np.testing.assert_allclose(
        np.asarray(posterior.guide.covariance()) / np.outer(sd, sd), covariance / np.outer(sd, sd), atol=0.02
    )
    assert posterior.verdict.status == "ok", posterior.verdict.reasons


def test_mean_field_finds_its_own_optimum(getkey):
    """For a Gaussian posterior the best mean-field guide has the conditional sds, in closed form."""
    covariance = np.array([[1.0, 0.9], [0.9, 1.0]])
    precision = jnp.asarray(np.linalg.inv(covariance))
    target = pf.from_logdensity(lambda x: -0.5 * (x - 3.0) @ precision @ (x - 3.0), jnp.zeros(2))
    posterior = pf.fit(target, pf.MeanField(), key=getkey(), progress=False)
    np.testing.assert_allclose(posterior.guide.loc, 3.0, atol=0.02)
    np.testing.assert_allclose(jnp.exp(posterior.guide.log_scale), 1 / jnp.sqrt(jnp.diag(precision)), rtol=0.01)


def test_delta_is_the_mode_in_the_users_space(getkey):
    """Gamma(3, 2): mode 1, whatever the unconstraining map."""

    def model():
        numpyro.sample("x", dist.Gamma(3.0, 2.0))

    posterior = pf.fit(pf.from_numpyro(model), pf.Delta(), key=getkey(), progress=False)
    np.testing.assert_allclose(posterior.draws("x"), 1.0, atol=1e-4)
    assert posterior.kind == "point"


def test_laplace_matches_the_closed_form(getkey):
    """Gamma(3, 2) in log space: mode log(3/2), curvature 3."""

    def model():
        numpyro.sample("x", dist.Gamma(3.0, 2.0))

    guide = pf.fit(pf.from_numpyro(model), pf.Laplace(), key=getkey(), progress=False).guide
    np.testing.assert_allclose(guide.gaussian.loc, np.log(1.5), atol=1e-4)
    np.testing.assert_allclose(guide.covariance(), 1 / 3, rtol=1e-3)


def funnel(dim):
    v = numpyro.sample("v", dist.Normal(0.0, 3.0))
    numpyro.sample("x", dist.Normal(0.0, jnp.exp(v / 2)).expand([dim]).to_event(1))


@pytest.mark.parametrize("dim", [1, pytest.param(9, marks=pytest.mark.slow)])
def test_neals_funnel_is_doubtful(dim, getkey):
    posterior = pf.fit(pf.from_numpyro(funnel, dim), key=getkey(), progress=False)
    assert posterior.verdict.status == "doubtful"
    assert posterior.verdict.details["khat"] > 0.7
    assert any("k-hat" in reason for reason in posterior.verdict.reasons)


def two_modes():
    weights = dist.Categorical(probs=jnp.array([0.5, 0.5]))
    numpyro.sample("x", dist.MixtureSameFamily(weights, dist.Normal(jnp.array([-5.0, 5.0]), 1.0)))


@pytest.mark.parametrize("guide", fast([None, pf.MeanField()], None))
def test_two_modes_are_doubtful_because_restarts_disagree(guide, getkey):
    posterior = pf.fit(pf.from_numpyro(two_modes), guide, key=getkey(), progress=False)
    assert posterior.verdict.status == "doubtful"
    assert any("estarts disagree" in reason for reason in posterior.verdict.reasons)
    assert posterior.verdict.details["khat"] < 0.7  # k-hat alone would have let it pass


@pytest.mark.slow
@pytest.mark.parametrize("modes", [(0.0, 100.0), (30.0, 60.0)])
def test_modes_far_from_the_origin_are_seen(modes, getkey):
    """No prior to draw from, and both modes out of reach of starts near the origin."""
    locations = jnp.asarray(modes)
    target = pf.from_logdensity(lambda x: jax.nn.logsumexp(-0.5 * (x - locations) ** 2), jnp.zeros(()))
    assert pf.fit(target, key=getkey(), progress=False).verdict.status == "doubtful"


@pytest.mark.parametrize("density", fast([jnp.sum, lambda x: 0.0 * jnp.sum(x), lambda x: jnp.sum(x**2)], jnp.sum))
def test_a_density_that_does_not_integrate_fails(density, getkey):
    verdict = pf.fit(pf.from_logdensity(density, jnp.zeros(2)), key=getkey(), progress=False).verdict
    assert verdict.status == "failed"
    assert "does not integrate" in str(verdict.reasons)


def test_a_scale_that_underflows_is_explained(getkey):
    """NumPyro's own argument checks must not replace the explanation."""

    def model(x):
        s = numpyro.sample("s", dist.HalfNormal(1.0))
        numpyro.sample("x", dist.Normal(0.0, s), obs=x)

    with pytest.raises(pf.NonFiniteError, match=r"stopped at step \d+.*site 'x'"):
        pf.fit(
            pf.from_numpyro(model, np.ones(20)), pf.MeanField(), optimizer=optax.sgd(10.0), key=getkey(), progress=False
        )


def test_nan_in_the_data_stops_with_site_and_step(getkey):
    target = pf.from_numpyro(normal_mean, np.array([1.0, np.nan]))
    with pytest.raises((ValueError, pf.NonFiniteError), match="step 0.*'x'"):
        pf.fit(target, key=getkey(), progress=False)
    with pytest.raises((ValueError, pf.NonFiniteError), match="step 0.*'x'"):
        pf.sample(target, pf.NUTS(), key=getkey(), num_steps=10, num_warmup=10, progress=False)


@pytest.mark.parametrize("optimizer", [optax.adam(1e6), pytest.param(optax.sgd(1e8), marks=pytest.mark.slow)])
def test_a_huge_learning_rate_stops_with_site_and_step(optimizer, getkey):
    x = np.random.default_rng(0).normal(8.0, 1.0, 20)
    with pytest.raises(pf.NonFiniteError, match=r"stopped at step \d+.*site 'x'") as caught:
        pf.fit(pf.from_numpyro(normal_mean, x), optimizer=optimizer, key=getkey(), progress=False)
    assert np.isfinite(np.concatenate([np.ravel(p) for p in jax.tree.leaves(caught.value.state.parameters)])).all()


def test_too_few_steps_is_not_ok(getkey):
    x = np.random.default_rng(0).normal(8.0, 1.0, 20)
    posterior = pf.fit(pf.from_numpyro(normal_mean, x), num_steps=50, key=getkey(), progress=False)
    assert posterior.verdict.status != "ok"
    assert any("converge" in reason for reason in posterior.verdict.reasons)


@pytest.mark.parametrize("name", fast(["dog", "prodigy", "dadapt_adamw"], "prodigy"))
def test_learning_rate_free_optimisers(name, getkey):
    """The tuning-free optimisers of optax.contrib, as they come, in awkward units."""
    x = np.random.default_rng(0).normal(40.0, 1.0, 25)
    optimizer = {
        "dog": optax.contrib.dog,
        "prodigy": optax.contrib.prodigy,
        "dadapt_adamw": optax.contrib.dadapt_adamw,
    }[name]()
    posterior = pf.fit(
        pf.from_numpyro(normal_mean, x), optimizer=optimizer, key=getkey(), progress=False, num_steps=5000
    )
    mean, sd = exact_normal_mean(x)
    assert abs(float(posterior.guide.loc[0]) - mean) < 0.05 * sd
    assert abs(float(posterior.guide.covariance()[0, 0]) ** 0.5 / sd - 1) < 0.05


def minibatch(y, size=50):
    mu = numpyro.sample("mu", dist.Normal(0.0, 20.0))
    with numpyro.plate("n", len(y), subsample_size=size):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=numpyro.subsample(y, event_dim=0))


def guide_program(y, size=50):
    loc = numpyro.param("loc", 0.0)
    scale = numpyro.param("scale", 1.0, constraint=dist.constraints.positive)
    numpyro.sample("mu", dist.Normal(loc, scale))


def test_minibatches_reach_the_full_data_posterior(getkey):
    y = np.random.default_rng(0).normal(3.0, 1.0, 1000)
    posterior = pf.fit(pf.from_numpyro(minibatch, y), pf.MeanField(), key=getkey(), progress=False)
    mean, sd = exact_normal_mean(y)
    assert abs(float(posterior.guide.loc[0]) - mean) < 0.25 * sd
    assert abs(float(jnp.exp(posterior.guide.log_scale[0])) / sd - 1) < 0.05


def test_program_guide_reaches_the_posterior(getkey):
    y = np.random.default_rng(0).normal(3.0, 1.0, 30)
    posterior = pf.fit(
        pf.from_numpyro(minibatch, y, size=None), pf.program_guide(guide_program), key=getkey(), progress=False
    )
    mean, sd = exact_normal_mean(y)
    values = posterior.guide.param_values()
    assert abs(float(values["loc"]) - mean) < 0.02 * sd
    assert abs(float(values["scale"]) / sd - 1) < 0.01


def local_model(y, size=2):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("n", len(y), subsample_size=size):
        z = numpyro.sample("z", dist.Normal(mu, 1.0))
        numpyro.sample("y", dist.Normal(z, 1.0), obs=numpyro.subsample(y, event_dim=0))


def local_guide(size=2, plate="n", total=6, inside=True):  # noqa: FBT002
    def guide(y, **_):
        numpyro.sample("mu", dist.Normal(numpyro.param("m", 0.0), 0.5))
        if not inside:
            numpyro.sample("z", dist.Normal(jnp.zeros(total), 1.0).to_event(1))
            return
        with numpyro.plate(plate, total, subsample_size=size):
            loc = numpyro.param("a", jnp.zeros(total), event_dim=0)
            numpyro.sample("z", dist.Normal(loc, 0.7))

    return guide


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        (local_guide(size=3), "subsample_size 3 in the guide"),
        (local_guide(plate="m"), "which the model does not"),
        (local_guide(size=None), "the minibatch scales disagree"),
        (local_guide(inside=False), "minibatch scales of log p and log q would disagree"),
    ],
)
def test_minibatch_that_disagrees_between_model_and_guide_is_refused(guide, message, getkey):
    target = pf.from_numpyro(local_model, jnp.arange(6.0))
    with pytest.raises(ValueError, match=message):
        pf.fit(target, pf.program_guide(guide), key=getkey(), progress=False)


def test_local_guide_and_model_share_their_minibatch(getkey):
    """Log p - log q of a minibatch, averaged over all minibatches, is that of the full data."""
    import itertools

    y = jnp.arange(6.0)
    target = pf.from_numpyro(local_model, y)
    guide = pf.program_guide(local_guide()).bind(target)
    key = getkey()
    position, _ = guide.sample_and_log_prob(key)
    full = target.logdensity(position) - guide.log_prob(position)
    weights = jax.jit(lambda i: target.logdensity(position, {"n": i}) - guide.log_prob(position, {"n": i}))
    each = [weights(jnp.asarray(i)) for i in itertools.combinations(range(6), 2)]
    np.testing.assert_allclose(sum(each) / len(each), full, rtol=1e-10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"key": 0}, "expected one typed key"),
        ({"num_steps": 0}, "num_steps=0"),
        ({"num_particles": 2.5}, "num_particles=2.5"),
        ({"guide": "mean-field"}, "is not a variational family"),
        ({"optimizer": 0.01}, "expected an optax transformation"),
        ({"objective": "elbo"}, "expected pf.ELBO"),
        ({"gradient": "path"}, "expected pf.Path"),
        ({"init": pf.FullRank()}, "expected the same family"),
        ({"learning_rate": 0.1}, r"no argument 'learning_rate'. Did you mean optimizer=optax.adam"),
        ({"num_step": 10}, "no argument 'num_step'. Did you mean num_steps"),
    ],
)
def test_bad_arguments(arguments, message, getkey):
    target = pf.from_numpyro(normal_mean, np.ones(3))
    with pytest.raises(ValueError, match=message):
        pf.fit(target, **{"guide": pf.MeanField(), "key": getkey(), "progress": False, **arguments})


def test_a_missing_key_is_explained():
    with pytest.raises(ValueError, match=r"pf.fit needs key=jax.random.key\(0\)"):
        pf.fit(pf.from_numpyro(normal_mean, np.ones(3)))


def test_a_function_is_not_a_target(getkey):
    with pytest.raises(ValueError, match="Expected a target"):
        pf.fit(normal_mean, key=getkey())


@pytest.mark.slow
def test_local_latents_of_a_minibatch_plate_start_from_all_data():
    """In one minibatch the latents of the other data have no curvature: a start from it puts them at infinity."""
    x = jnp.asarray([0.6, -1.1, 1.9, 0.2])

    def model(x):
        with numpyro.plate("data", len(x), subsample_size=2):
            z = numpyro.sample("z", dist.LogNormal(0.0, 1.0))
            numpyro.sample("x", dist.Normal(jnp.log(z), 1.0), obs=numpyro.subsample(x, event_dim=0))

    posterior = pf.fit(
        pf.from_numpyro(model, x),
        pf.MeanField(),
        optimizer=optax.adam(optax.cosine_decay_schedule(0.05, 1000)),
        num_steps=1000,
        num_restarts=1,
        num_draws=1024,
        key=jax.random.key(0),
        progress=False,
    )
    found = np.log(posterior.draws("z")).reshape(-1, 4)
    np.testing.assert_allclose(found.mean(0), np.asarray(x) / 2, atol=0.1)
    np.testing.assert_allclose(found.std(0), np.sqrt(0.5), atol=0.1)


def test_single_precision_parameters_meet_a_double_precision_density(getkey):
    """Weights made by a library in single precision, in a run with 64-bit floats."""

    def model():
        numpyro.sample("z", dist.Normal(jnp.zeros(()), 1.0))

    def guide():
        numpyro.sample("z", dist.Normal(numpyro.param("loc", jnp.ones((), jnp.float32)), 1.0))

    settings = {"num_steps": 200, "num_restarts": 1, "progress": False}
    posterior = pf.fit(pf.from_numpyro(model), pf.program_guide(guide), key=getkey(), **settings)
    assert abs(float(posterior.data["posterior"]["z"].mean())) < 0.2
