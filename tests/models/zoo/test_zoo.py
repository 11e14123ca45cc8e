"""Integrity of the zoo: names, data, references, draws, licences and labels. About 30 s."""

from __future__ import annotations

from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import fast

from pushforward.models import zoo

from . import cases

NAMES = (
    "ark",
    "eight_schools_centered",
    "eight_schools_noncentered",
    "garch",
    "german_credit",
    "gp_regr",
    "hmm",
    "lotka_volterra",
    "irt_2pl",
    "kidiq",
    "kilpisjarvi",
    "gauss_mix",
    "mesquite",
    "pump",
    "blr",
)
ALIASES = {
    "arK-arK": "ark",
    "eight_schools-eight_schools_centered": "eight_schools_centered",
    "eight_schools-eight_schools_noncentered": "eight_schools_noncentered",
    "garch-garch11": "garch",
    "german_credit-logistic": "german_credit",
    "gp_pois_regr-gp_regr": "gp_regr",
    "hmm_example-hmm_example": "hmm",
    "hudson_lynx_hare-lotka_volterra": "lotka_volterra",
    "irt_2pl-irt_2pl": "irt_2pl",
    "kidiq-kidscore_interaction": "kidiq",
    "kilpisjarvi_mod-kilpisjarvi": "kilpisjarvi",
    "low_dim_gauss_mix-low_dim_gauss_mix": "gauss_mix",
    "mesquite-logmesquite": "mesquite",
    "pump-pump": "pump",
    "sblrc-blr": "blr",
}


def test_names() -> None:
    assert zoo.names() == NAMES
    assert len(zoo.pyro_names()) >= 8
    assert set(zoo.pyro_names()) <= set(NAMES)


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_posteriordb_names_are_accepted(alias: str, name: str) -> None:
    assert zoo.load(alias) is zoo.load(name)


def test_unknown_name_lists_close_matches() -> None:
    with pytest.raises(ValueError, match=r"'eight_schols_centred' \(close matches: .*eight_schools_centered"):
        zoo.load("eight_schols_centred")
    with pytest.raises(ValueError, match="no name is close"):
        zoo.load("%%%")


def test_missing_pyro_program_is_an_error() -> None:
    with pytest.raises(ValueError, match="'lotka_volterra' has no Pyro program"):
        zoo.load("lotka_volterra").pyro()


@pytest.mark.parametrize("name", NAMES)
def test_reference_and_draws(name: str) -> None:
    entry = zoo.load(name)
    draws = entry.draws()
    assert set(draws) == set(entry.reference)
    for site, reference in entry.reference.items():
        shape = reference.mean.shape
        arrays = [a for a in (reference.mean, reference.sd, reference.mcse_mean, reference.ess) if a is not None]
        assert all(a.shape == shape and a.dtype == np.float64 and np.all(np.isfinite(a)) for a in arrays)
        assert np.all(reference.sd > 0)
        assert draws[site].dtype == np.float32
        assert draws[site].shape == (len(draws[site]), *shape)
        assert reference.kind == ("draws" if entry.draws_kind == "published" else "moments")
        if reference.mcse_mean is not None:
            assert np.all(reference.mcse_mean < 0.06 * reference.sd)
        if entry.draws_kind == "published":
            # 1,000 draws: six standard errors, a false alarm of 2e-9 per entry.
            n = len(draws[site])
            z = (draws[site].mean(0, dtype=np.float64) - reference.mean) / (reference.sd / np.sqrt(n))
            assert n == 1000
            assert np.all(np.abs(z) < 6)


@pytest.mark.parametrize("name", NAMES)
def test_sources_and_licences(name: str) -> None:
    entry = zoo.load(name)
    assert len(entry.source) > 40
    assert len(entry.licence) > 15
    assert entry.description.endswith(".")
    licences = resources.files(zoo.__name__).joinpath("data", "LICENSES.md").read_text(encoding="utf-8")
    table = [row for row in licences.splitlines() if row.startswith("| ")]
    listed = {item.strip() for row in table for item in row.split("|")[1].split(",")}
    assert (entry.folder or entry.name) in listed


def test_package_files_are_small_and_complete() -> None:
    data = resources.files(zoo.__name__).joinpath("data")
    folders = sorted(item.name for item in data.iterdir() if item.is_dir())
    assert folders == sorted({zoo.load(n).folder or n for n in NAMES})
    sizes = [
        len(data.joinpath(f, file).read_bytes())
        for f in folders
        for file in ("data.json", "reference.json", "draws.npz")
    ]
    assert sum(sizes) < 700_000


@pytest.mark.parametrize("name", fast(NAMES, "eight_schools_centered", "german_credit", "gauss_mix", "hmm", "kidiq"))
def test_target(name: str) -> None:
    entry = zoo.load(name)
    target = cases.target(name)
    assert target.dim == entry.dim
    shapes = {site.name: site.shape for site in target.program.sites}
    for site, reference in entry.reference.items():
        assert shapes[site] == reference.mean.shape
        for dim, size in zip(target.dims[site], shapes[site], strict=True):
            assert not dim.startswith(f"{site}_dim_"), f"axis of '{site}' has no meaningful name"
            assert len(target.coords.get(dim, range(size))) == size
    values = jax.eval_shape(target.constrain, target.example)
    assert set(entry.reference) <= set(values)
    position = target.unconstrain({k: v[0] for k, v in cases.latent_draws(name).items()})
    assert np.isfinite(float(jax.jit(target.logdensity)(position)))


@pytest.mark.parametrize("name", NAMES)
def test_args_follow_the_default_dtype(name: str) -> None:
    for x64, dtype in ((True, jnp.float64), (False, jnp.float32)):
        with jax.enable_x64(x64):
            args, kwargs = zoo.load(name).args()
        floating = [x for x in jax.tree.leaves((args, kwargs)) if jnp.issubdtype(x.dtype, jnp.floating)]
        assert all(x.dtype == dtype for x in floating)


@pytest.mark.parametrize("name", ["german_credit", "hmm", "pump"])
def test_float32_target(name: str) -> None:
    entry = zoo.load(name)
    values = {k: v[0] for k, v in cases.latent_draws(name).items()}
    expected = float(jax.jit(cases.target(name).logdensity)(cases.target(name).unconstrain(values)))
    with jax.enable_x64(False):
        target = entry.target()
        value, gradient = jax.jit(jax.value_and_grad(target.logdensity))(target.unconstrain(values))
    assert value.dtype == jnp.float32
    assert all(g.dtype == jnp.float32 and bool(jnp.all(jnp.isfinite(g))) for g in gradient.values())
    np.testing.assert_allclose(float(value), expected, rtol=1e-5)


def test_recovered_auxiliary_sites() -> None:
    garch = zoo.load("garch").latent_draws()
    assert set(garch) == {"mu", "alpha0", "alpha1", "beta1_frac"}
    assert np.all((garch["beta1_frac"] > 0) & (garch["beta1_frac"] < 1))
    schools = zoo.load("eight_schools_noncentered").latent_draws()
    assert set(schools) == {"mu", "tau", "theta_trans"}


def test_eight_schools_against_quadrature() -> None:
    """Posterior means of mu and tau by two-dimensional quadrature, from the target and from the closed form.

    Given (mu, tau) theta is Gaussian, so the marginal density is the joint over the conditional density of theta at any
    theta; at the conditional mean the latter is the root of the product of precisions, up to a constant.
    """
    target = cases.target("eight_schools_centered")
    standard_errors, y = zoo.load("eight_schools_centered").args()[0]

    def log_marginal(mu: jax.Array, log_tau: jax.Array) -> jax.Array:
        precision = jnp.exp(-2.0 * log_tau) + standard_errors**-2
        theta = (mu * jnp.exp(-2.0 * log_tau) + y * standard_errors**-2) / precision
        return target.logdensity({"mu": mu, "tau": log_tau, "theta": theta}) - 0.5 * jnp.sum(jnp.log(precision))

    mu, log_tau = jnp.linspace(-30.0, 40.0, 351)[:, None], jnp.linspace(-10.0, 6.0, 401)[None, :]
    ours = jax.jit(jax.vmap(jax.vmap(log_marginal, (None, 0)), (0, None)))(mu[:, 0], log_tau[0])
    variance = jnp.exp(2.0 * log_tau)[..., None] + standard_errors**2
    closed = -0.5 * jnp.sum((y - mu[..., None]) ** 2 / variance + jnp.log(variance), axis=-1)
    closed = closed - 0.5 * (mu / 5.0) ** 2 - jnp.log1p(jnp.exp(2.0 * log_tau) / 25.0) + log_tau

    def means(log_p: jax.Array) -> np.ndarray:
        weights = jax.nn.softmax(log_p.ravel()).reshape(log_p.shape)
        return np.array([jnp.sum(weights * mu), jnp.sum(weights * jnp.exp(log_tau))])

    np.testing.assert_allclose(means(ours), means(closed), rtol=1e-9)
    reference = zoo.load("eight_schools_centered").reference
    for site, mean in zip(("mu", "tau"), means(ours), strict=True):
        assert abs(mean - reference[site].mean) < 4 * reference[site].mcse_mean
