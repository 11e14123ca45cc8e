"""The NumPyro front end against NumPyro itself, closed forms and brute force."""

from __future__ import annotations

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from numpyro import handlers
from numpyro.contrib.module import eqx_module
from numpyro.infer.reparam import LocScaleReparam
from numpyro.infer.util import potential_energy

import pushforward as pf

constraints = dist.constraints

SITES = {
    "real": lambda: dist.Normal(jnp.zeros(2), 1.5).to_event(1),
    "positive": lambda: dist.Gamma(2.0, 3.0),
    "unit": lambda: dist.Beta(2.0, 3.0),
    "bounded": lambda: dist.Uniform(-1.0, 4.0),
    "greater": lambda: dist.Pareto(2.0, 3.0),
    "simplex": lambda: dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])),
    "ordered": lambda: dist.ImproperUniform(constraints.ordered_vector, (), (3,)),
    "positive_ordered": lambda: dist.ImproperUniform(constraints.positive_ordered_vector, (), (3,)),
    "corr_cholesky": lambda: dist.LKJCholesky(3, 2.0),
    "corr_matrix": lambda: dist.LKJ(3, 2.0),
    "positive_definite": lambda: dist.Wishart(5.0, scale_matrix=jnp.eye(2)),
    "lower_cholesky": lambda: dist.ImproperUniform(constraints.lower_cholesky, (), (2, 2)),
    "circular": lambda: dist.VonMises(0.3, 2.0),
    "truncated": lambda: dist.TruncatedNormal(0.0, 1.0, low=-1.0, high=2.0),
    "log_normal": lambda: dist.LogNormal(jnp.zeros(3), 1.0).to_event(1),
    "zero_sum": lambda: dist.ZeroSumNormal(1.0, event_shape=(4,)),
}


@pytest.mark.parametrize("name", list(SITES))
def test_every_kind_of_site(name, getkey):
    """Density equals NumPyro's potential; constrain and unconstrain are inverse; values lie in the support."""

    def model():
        x = numpyro.sample("x", SITES[name]())
        numpyro.factor("f", -0.1 * jnp.sum(x**2))

    target = pf.from_numpyro(model)
    position = target.initial(getkey())
    np.testing.assert_allclose(target.logdensity(position), -potential_energy(model, (), {}, position), rtol=1e-10)
    value = target.constrain(position)["x"]
    assert bool(jnp.all(SITES[name]().support(value)))
    np.testing.assert_allclose(target.unconstrain({"x": value})["x"], position["x"], rtol=1e-6, atol=1e-8)
    without = target.logdensity(position, jacobian=False)
    log_det = sum(target.program.evaluate(position).log_dets.values())
    np.testing.assert_allclose(target.logdensity(position), without + log_det, rtol=1e-12)


def hierarchical(x, y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 3.0))
    bound = numpyro.sample("bound", dist.HalfNormal(2.0))
    with numpyro.plate("group", 4):
        slope = numpyro.sample("slope", dist.Uniform(-bound, bound))
        with numpyro.plate("unit", 5):
            z = numpyro.sample("z", dist.Normal(mu, 1.0))
            numpyro.sample("y", dist.StudentT(5.0, slope * x + z, 0.5), obs=y)
    numpyro.deterministic("total", z.sum())


def test_nested_plates_and_supports_that_depend_on_latents(getkey):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 4)), rng.normal(size=(5, 4))
    target = pf.from_numpyro(hierarchical, x, y, coords={"group": list("abcd")})
    position = target.initial(getkey())
    np.testing.assert_allclose(
        target.logdensity(position), -potential_energy(hierarchical, (x, y), {}, position), rtol=1e-12
    )
    assert target.dims["z"] == ("unit", "group")
    assert target.dims["slope"] == ("group",)
    assert target.coords["group"] == tuple("abcd")
    values = target.constrain(position)
    np.testing.assert_allclose(values["total"], values["z"].sum())
    assert target.log_likelihood(position)["y"].shape == (5, 4)
    np.testing.assert_allclose(
        target.log_likelihood(position)["y"],
        dist.StudentT(5.0, values["slope"] * x + values["z"], 0.5).log_prob(y),
        rtol=1e-12,
    )


def minibatched(y, size=None, local=True):  # noqa: FBT002
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("n", len(y), subsample_size=size):
        batch = numpyro.subsample(y, event_dim=0)
        if local:
            z = numpyro.sample("z", dist.LogNormal(mu, 1.0))
            numpyro.sample("y", dist.Normal(z, 1.0), obs=batch)
        else:
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=batch)


@pytest.mark.parametrize("local", [True, False])
def test_minibatch_density_is_exactly_unbiased(local, getkey):
    """The mean over all minibatches is the full density, value and gradient, to rounding."""
    y = jnp.arange(5.0)
    full, target = pf.from_numpyro(minibatched, y, local=local), pf.from_numpyro(minibatched, y, size=2, local=local)
    position = full.initial(getkey())
    np.testing.assert_allclose(target.logdensity(position), full.logdensity(position), rtol=1e-12)
    f = jax.jit(lambda i: jax.value_and_grad(target.logdensity)(position, {"n": i}))
    each = [f(jnp.asarray(i)) for i in itertools.combinations(range(5), 2)]
    mean = jax.tree.map(lambda *v: sum(v) / len(v), *each)
    exact = jax.value_and_grad(full.logdensity)(position)
    for a, b in zip(jax.tree.leaves(mean), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


def test_minibatch_draws_are_uniform_without_replacement(getkey):
    target = pf.from_numpyro(minibatched, jnp.arange(5.0), size=2)
    draws = np.asarray(jax.vmap(target.minibatch)(jax.random.split(getkey(), 5000))["n"])
    assert (draws[:, 0] != draws[:, 1]).all()
    counts = np.bincount(draws.ravel(), minlength=5)
    assert scipy.stats.chisquare(counts).pvalue > 1e-6


def test_minibatch_of_wrong_plate_or_size_is_refused(getkey):
    target = pf.from_numpyro(minibatched, jnp.arange(5.0), size=2)
    position = target.initial(getkey())
    with pytest.raises(ValueError, match="plate 'n' has indices of shape \\(3,\\)"):
        target.logdensity(position, {"n": jnp.arange(3)})
    with pytest.raises(ValueError, match="expected exactly the subsampled plates"):
        target.logdensity(position, {"m": jnp.arange(2)})


def mixture(y, joint=False):  # noqa: FBT002
    locs = numpyro.sample("locs", dist.Normal(0.0, 3.0).expand([3]).to_event(1))
    weights = jnp.array([0.2, 0.3, 0.5])
    shared = numpyro.sample("shared", dist.Bernoulli(0.4), infer={"enumerate": "parallel"}) if joint else 0
    with numpyro.plate("n", len(y)):
        k = numpyro.sample("k", dist.Categorical(weights), infer={"enumerate": "parallel"})
        numpyro.sample("y", dist.Normal(locs[k] + 0.7 * shared, 1.0), obs=y)


def test_enumeration_is_the_mixture_density(getkey):
    y = jnp.array([0.1, -2.0, 3.0])
    target = pf.from_numpyro(mixture, y)
    position = target.initial(getkey())
    locs = np.asarray(position["locs"])
    pointwise = np.log(scipy.stats.norm.pdf(np.asarray(y)[:, None], locs, 1.0) @ [0.2, 0.3, 0.5])
    np.testing.assert_allclose(
        target.logdensity(position), pointwise.sum() + scipy.stats.norm.logpdf(locs, 0, 3).sum(), rtol=1e-12
    )
    np.testing.assert_allclose(target.log_likelihood(position)["y"], pointwise, rtol=1e-12)


def test_enumeration_across_plates_is_brute_force(getkey):
    """A global discrete site above a plate of local ones: the sum over all 2 x 3^3 assignments."""
    y = jnp.array([0.1, -2.0, 3.0])
    target = pf.from_numpyro(mixture, y, joint=True)
    position = target.initial(getkey())
    locs, total = np.asarray(position["locs"]), 0.0
    for shared in (0, 1):
        for ks in itertools.product(range(3), repeat=3):
            p = (0.4, 0.6)[shared == 0]
            for k, value in zip(ks, np.asarray(y), strict=True):
                p *= [0.2, 0.3, 0.5][k] * scipy.stats.norm.pdf(value, locs[k] + 0.7 * shared, 1.0)
            total += p
    exact = np.log(total) + scipy.stats.norm.logpdf(locs, 0, 3).sum()
    np.testing.assert_allclose(target.logdensity(position), exact, rtol=1e-12)
    with pytest.raises(ValueError, match="coupled through an enumerated site"):
        target.log_likelihood(position)


def test_enumerated_site_outside_a_subsampled_plate_is_refused():
    def model(y):
        k = numpyro.sample("k", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        numpyro.sample("mu", dist.Normal(0.0, 1.0))
        with numpyro.plate("n", 4, subsample_size=2) as i:
            numpyro.sample("y", dist.Normal(k * 1.0, 1.0), obs=y[i])

    target = pf.from_numpyro(model, jnp.arange(4.0))
    with pytest.raises(ValueError, match="biased"):
        target.logdensity(target.example, {"n": jnp.array([0, 1])})


def test_handlers(getkey):
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
        tau = numpyro.sample("tau", dist.HalfNormal(1.0))
        with numpyro.plate("n", 3):
            theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, 1.0).to_event(1), obs=y)

    y = jnp.array([1.0, 2.0, 3.0])
    wrapped = {
        "condition": handlers.condition(model, {"tau": 0.5}),
        "scale": handlers.scale(model, 0.3),
        "mask": handlers.mask(model, False),
        "reparam": handlers.reparam(model, {"theta": LocScaleReparam(0.0)}),
        "do": handlers.do(model, {"tau": 0.5}),
    }
    for name, program in wrapped.items():
        target = pf.from_numpyro(program, y)
        position = target.initial(getkey())
        np.testing.assert_allclose(
            target.logdensity(position), -potential_energy(program, (y,), {}, position), rtol=1e-12, err_msg=name
        )
    assert "theta" in pf.from_numpyro(wrapped["reparam"], y).constrain(pf.from_numpyro(wrapped["reparam"], y).example)


def test_learnable_parameters_and_modules(getkey):
    net = eqx.nn.MLP(2, 1, 4, 1, key=getkey())

    def model(x, y):
        f = eqx_module("net", net)
        scale = numpyro.param("scale", 0.5, constraint=constraints.positive)
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(jax.vmap(f)(x)[:, 0] + b, scale), obs=y)

    x, y = jnp.ones((3, 2)), jnp.arange(3.0)
    target = pf.from_numpyro(model, x, y)
    assert set(target.program.params) == {"net$params", "scale"}
    np.testing.assert_allclose(target.program.param_values()["scale"], 0.5)
    gradient = jax.grad(lambda t: t.logdensity(t.example), allow_int=True)(target).program.params
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(gradient))
    with pytest.raises(ValueError, match="learnable parameters"):
        pf.sample(target, pf.NUTS(), key=getkey(), num_steps=10, num_warmup=10)


def test_predict_and_prior(getkey):
    y = jnp.zeros((2000,))

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(2.0, 0.1))
        numpyro.deterministic("twice", 2 * mu)
        with numpyro.plate("n", 2000):
            numpyro.sample("y", dist.Normal(mu, 0.5), obs=y)

    target = pf.from_numpyro(model, y)
    drawn = target.predict(getkey(), {"mu": jnp.asarray(5.0)})
    assert set(drawn) == {"y", "twice"}
    np.testing.assert_allclose(drawn["twice"], 10.0)
    assert abs(drawn["y"].mean() - 5.0) < 5 * 0.5 / np.sqrt(2000)
    assert abs(drawn["y"].std() - 0.5) < 5 * 0.5 / np.sqrt(2 * 2000)
    prior = target.prior(getkey())
    assert set(prior) == {"mu", "twice", "y"}
    again = target.rebind(None)
    assert again.predict(getkey(), {"mu": jnp.asarray(5.0)})["y"].shape == (2000,)


def test_scaled_weights(getkey):
    target = pf.from_numpyro(minibatched, jnp.arange(5.0), local=False)
    position = target.initial(getkey())
    parts = target.site_log_probs(position)
    np.testing.assert_allclose(
        target.scaled({"y": 0.25}).logdensity(position), parts["mu"] + 0.25 * parts["y"], rtol=1e-12
    )
    with pytest.raises(ValueError, match="Unknown site"):
        target.scaled({"nope": 1.0})


def test_static_arguments_are_found_by_themselves():
    """NumPy calls and Python branches on *data* keep working: the data is then constant."""

    def model(group, y):
        count = len(np.unique(group))
        effect = numpyro.sample("effect", dist.Normal(0.0, 1.0).expand([count]).to_event(1))
        numpyro.sample("y", dist.Normal(effect[group], 1.0), obs=y)

    target = pf.from_numpyro(model, np.array([0, 1, 1]), np.zeros(3))
    assert target.dim == 2


def value_branch(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(mu if mu > 0 else -mu, 1.0), obs=y)


def discrete(y):
    k = numpyro.sample("k", dist.Poisson(3.0))
    numpyro.sample("y", dist.Normal(k, 1.0), obs=y)


def random_inside(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    noise = jax.random.normal(numpyro.prng_key())
    numpyro.sample("y", dist.Normal(mu + noise, 1.0), obs=y)


def random_free(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def labels(y):
    p = numpyro.sample("p", dist.Beta(1.0, 1.0))
    numpyro.sample("y", dist.Bernoulli(p), obs=y)


def integer_parameter(y):
    k = numpyro.param("k", 3)
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(mu * k, 1.0), obs=y)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: pf.from_numpyro(minibatched), "missing a required argument: 'y'"),
        (lambda: pf.from_numpyro(minibatched, jnp.ones(3), sise=2), "unexpected keyword argument 'sise'"),
        (lambda: pf.from_numpyro(minibatched, jnp.ones(0)), "Argument 'y' .* is an empty array"),
        (lambda: pf.from_numpyro(hierarchical, jnp.ones((5, 4))), "has no observed site, and its argument"),
        (lambda: pf.from_numpyro(hierarchical, jnp.ones((3, 4)), jnp.ones((5, 4))), "shape"),
        (lambda: pf.from_numpyro(hierarchical, jnp.ones((5, 4)), jnp.ones((5, 4, 1))), "Site 'y': a value of shape"),
        (lambda: pf.from_numpyro(minibatched, jnp.ones((3, 1))), "'y'"),
        (lambda: pf.from_numpyro(hierarchical, jnp.ones((5, 4)), jnp.ones((1, 4))), "shorter than its plate"),
        (lambda: pf.from_numpyro(hierarchical, jnp.full((5, 4), jnp.inf), jnp.ones((5, 4))), "contain NaN or infinity"),
        (lambda: pf.from_numpyro(value_branch, jnp.ones(3)), "uses the value of a latent site in Python"),
        (lambda: pf.MeanField(pf.from_numpyro(discrete, jnp.ones(3))), "Site 'k' .*discrete latent"),
        (lambda: pf.from_numpyro(random_inside, jnp.ones(3)), "Randomness inside the log density"),
        (
            lambda: pf.from_numpyro(labels, jnp.array([0, 1, 2])),
            "data of site 'y' lies outside the support of Bernoulli",
        ),
        (lambda: pf.from_numpyro(integer_parameter, jnp.ones(3)), "learnable parameter 'k' has dtype int"),
        (lambda: pf.from_numpyro(minibatched, jnp.ones(3), coords={"nope": [1]}), "coords names the dimension 'nope'"),
        (lambda: pf.from_numpyro(minibatched, jnp.ones(3), coords={"n": [1]}), "coords\\['n'\\] has 1 labels"),
        (lambda: pf.from_numpyro(minibatched, jnp.ones(3), dims={"nope": ["a"]}), "dims names the site 'nope'"),
        (lambda: pf.from_numpyro(3), "Expected a NumPyro model"),
        (lambda: pf.from_logdensity(lambda x: x, jnp.zeros(3)), "expected a scalar"),
        (lambda: pf.from_logdensity(jnp.sum, jnp.arange(3)), "expected floating point"),
        (lambda: pf.from_logdensity(jnp.sum, "x"), "The leaf 'x' of the example is 'x'"),
        (lambda: pf.from_logdensity(jnp.sum, jnp.zeros(3), {"y": constraints.positive}), "no leaves of the example"),
    ],
)
def test_bad_input(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("position", "message"),
    [
        ({"p": jnp.zeros(())}, r"sites \['p'\]: expected exactly the latent sites \['mu'\]"),
        ({"mu": jnp.zeros(2)}, r"site 'mu' has shape \(2,\): expected \(\)"),
        (jnp.zeros(1), "expected {site: unconstrained array}"),
    ],
)
def test_position_of_the_wrong_structure(position, message):
    target = pf.from_numpyro(random_free, jnp.ones(3))
    for use in (target.logdensity, target.constrain, target.site_log_probs):
        with pytest.raises(ValueError, match=message):
            use(position)


def test_position_unlike_the_example():
    target = pf.from_logdensity(lambda x: -jnp.sum(x["a"] ** 2), {"a": jnp.zeros(2)})
    with pytest.raises(ValueError, match=r"expected {'a': \(2,\)}"):
        target.logdensity(jnp.zeros(2))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.array(["a", "b"]), "data of site 'y' is .*expected numbers"),
        (np.array([1.0, None], dtype=object), "data of site 'y' is .*expected numbers"),
        ([1.0, 2.0], "data of site 'y' is a list: expected an array"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*requires ndarray or scalar arguments:DeprecationWarning")
def test_data_that_is_no_array(data, message):
    with pytest.raises(ValueError, match=message):
        pf.from_numpyro(random_free, data)


def test_nan_in_the_data_names_the_site(getkey):
    target = pf.from_numpyro(minibatched, jnp.array([1.0, jnp.nan]), local=False)
    with pytest.raises(ValueError, match=r"step 0\).*'y'.*NaN"):
        target.initial(getkey())


def test_value_outside_the_support_is_named():
    target = pf.from_numpyro(labels, jnp.array([0, 1]))
    with pytest.raises(ValueError, match="site 'p' lies outside its support"):
        target.unconstrain({"p": 1.5})
    with pytest.raises(ValueError, match="missing \\['p'\\]"):
        target.unconstrain({})


def test_logdensity_with_constraints_is_normalised():
    """A Gamma density given on the positive reals integrates to one in the unconstrained coordinate."""
    target = pf.from_logdensity(lambda x: dist.Gamma(3.0, 2.0).log_prob(x), 0.0, constraints.positive)
    grid = jnp.linspace(-12.0, 6.0, 20_001)
    total = jnp.trapezoid(jnp.exp(jax.vmap(target.logdensity)(grid)), grid)
    np.testing.assert_allclose(total, 1.0, rtol=1e-8)
