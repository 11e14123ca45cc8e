"""One recipe per distribution of `pyro.distributions`: random parameters and how to build it from them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro_excluded import EXCLUDED as EXCLUDED
from pyro_translation import Gen

Params = dict[str, torch.Tensor]


class Case(NamedTuple):
    params: Callable[[Gen, tuple[int, ...]], Params]
    build: Callable[[Params], Any]
    value: Callable[[Gen, tuple[int, ...]], torch.Tensor] | None = None
    """None draws from the distribution."""
    differentiate_value: bool = True
    constant_value: bool = False
    """The value steers the density's control flow, as data may."""
    gradient: bool = True
    """False where torch cannot differentiate its own log_prob."""


def _params(**kinds: Any) -> Callable[[Gen, tuple[int, ...]], Params]:
    """``loc="real"`` or ``probs=("simplex", 3)``: kind and event shape."""

    def make(g: Gen, batch: tuple[int, ...]) -> Params:
        out = {}
        for name, kind in kinds.items():
            label, *event = kind if isinstance(kind, tuple) else (kind,)
            out[name] = getattr(g, label)(*batch, *event)
        return out

    return make


def _call(cls: Any, **fixed: Any) -> Callable[[Params], Any]:
    return lambda p: cls(**p, **fixed)


def _counts(high: int) -> Callable[[Gen, tuple[int, ...]], torch.Tensor]:
    return lambda g, b: g.floats_below(high, *b)


def _hmm_params(g: Gen, b: tuple[int, ...]) -> Params:
    return {
        "loc0": g.real(*b, 2),
        "tril0": g.tril(*b, 2, 2),
        "F": 0.5 * g.real(*b, 2, 2, 2),
        "locF": g.real(*b, 2, 2),
        "trilF": g.tril(*b, 2, 2, 2),
        "H": g.real(*b, 2, 2, 2),
        "locH": g.real(*b, 2, 2),
        "trilH": g.tril(*b, 2, 2, 2),
    }


def _mvn(p: Params, name: str) -> Any:
    return dist.MultivariateNormal(p[f"loc{name}"], scale_tril=p[f"tril{name}"])


def _gaussian_hmm(p: Params) -> Any:
    return dist.GaussianHMM(_mvn(p, "0"), p["F"], _mvn(p, "F"), p["H"], _mvn(p, "H"), duration=2)


def _gamma_gaussian_hmm(p: Params) -> Any:
    return dist.GammaGaussianHMM(
        dist.Gamma(p["a"], p["b"]), _mvn(p, "0"), p["F"], _mvn(p, "F"), p["H"], _mvn(p, "H"), duration=2
    )


def _with(base: Callable[[Gen, tuple[int, ...]], Params], **kinds: Any) -> Callable[[Gen, tuple[int, ...]], Params]:
    more = _params(**kinds)
    return lambda g, b: {**base(g, b), **more(g, b)}


_ONE = _params(concentration1="positive", concentration0="positive")
_LOC_SCALE = _params(loc="real", scale="positive")
_MIX = _params(locs=("real", 3, 2), coord_scale=("positive", 3, 2), component_logits=("real", 3))

CASES: dict[str, Case] = {
    "AVFMultivariateNormal": Case(
        lambda g, b: {"loc": g.real(2), "scale_tril": g.tril(2, 2), "control_var": g.real(2, 1, 2)},
        _call(dist.AVFMultivariateNormal),
    ),
    "AffineBeta": Case(_with(_ONE, loc="real", scale="positive"), _call(dist.AffineBeta)),
    "AsymmetricLaplace": Case(_with(_LOC_SCALE, asymmetry="positive"), _call(dist.AsymmetricLaplace)),
    "Bernoulli": Case(_params(logits="real"), _call(dist.Bernoulli)),
    "Bernoulli-probs": Case(_params(probs="unit"), _call(dist.Bernoulli)),
    "Beta": Case(_ONE, _call(dist.Beta)),
    "BetaBinomial": Case(_ONE, _call(dist.BetaBinomial, total_count=5)),
    "Binomial": Case(_params(logits="real"), _call(dist.Binomial, total_count=7)),
    "Binomial-probs": Case(
        _params(probs="unit"), lambda p: dist.Binomial(torch.arange(4.0, 5.0).to(p["probs"]), probs=p["probs"])
    ),
    "Categorical": Case(_params(logits=("real", 4)), _call(dist.Categorical)),
    "Categorical-probs": Case(_params(probs=("simplex", 4)), _call(dist.Categorical)),
    "Cauchy": Case(_LOC_SCALE, _call(dist.Cauchy)),
    "Chi2": Case(_params(df="positive"), _call(dist.Chi2)),
    "CoalescentRateLikelihood": Case(
        lambda g, b: {"rate_grid": g.positive(9)},
        lambda p: _CoalescentRate(p),
        lambda g, b: torch.zeros(()),
        differentiate_value=False,
    ),
    "CoalescentTimes": Case(
        lambda g, b: {"rate": g.positive(*b)},
        lambda p: dist.CoalescentTimes(torch.tensor([0.0, 1.0, 2.0, 3.0]).to(p["rate"]), p["rate"]),
    ),
    "CoalescentTimesWithRate": Case(
        lambda g, b: {"rate_grid": g.positive(*b, 6)},
        lambda p: dist.CoalescentTimesWithRate(torch.tensor([0.0, 0.5, 2.5, 4.0]).to(p["rate_grid"]), p["rate_grid"]),
        lambda g, b: torch.tensor([-2.3, -0.7, 0.4], dtype=g.dtype),
        differentiate_value=False,
    ),
    "ContinuousBernoulli": Case(_params(logits="real"), _call(dist.ContinuousBernoulli)),
    "Delta": Case(
        _params(log_density="real"),
        lambda p: dist.Delta(torch.ones_like(p["log_density"]), p["log_density"]),
        lambda g, b: torch.ones(b),
    ),
    "Dirichlet": Case(_params(concentration=("positive", 3)), _call(dist.Dirichlet)),
    "DirichletMultinomial": Case(
        _params(concentration=("positive", 3)), _call(dist.DirichletMultinomial, total_count=6)
    ),
    "DiscreteHMM": Case(
        _params(initial=("real", 2), transition=("real", 4, 2, 2), loc=("real", 4, 2)),
        lambda p: dist.DiscreteHMM(p["initial"], p["transition"], dist.Normal(p["loc"], 1.0), duration=4),
        lambda g, b: g.real(*b, 4),
    ),
    "Exponential": Case(_params(rate="positive"), _call(dist.Exponential)),
    "ExtendedBetaBinomial": Case(_ONE, _call(dist.ExtendedBetaBinomial, total_count=5), _counts(7)),
    "ExtendedBinomial": Case(_params(logits="real"), _call(dist.ExtendedBinomial, total_count=5), _counts(7)),
    "FisherSnedecor": Case(_params(df1="positive", df2="positive"), _call(dist.FisherSnedecor)),
    "FoldedDistribution": Case(_LOC_SCALE, lambda p: dist.FoldedDistribution(dist.Normal(**p))),
    "Gamma": Case(_params(concentration="positive", rate="positive"), _call(dist.Gamma)),
    "GammaGaussianHMM": Case(
        _with(_hmm_params, a="positive", b="positive"), _gamma_gaussian_hmm, lambda g, b: g.real(*b, 2, 2)
    ),
    "GammaPoisson": Case(_params(concentration="positive", rate="positive"), _call(dist.GammaPoisson)),
    "GaussianHMM": Case(_hmm_params, _gaussian_hmm, lambda g, b: g.real(*b, 2, 2)),
    "GaussianMRF": Case(
        lambda g, b: {
            "loc0": g.real(*b, 2),
            "tril0": g.tril(*b, 2, 2),
            "locF": g.real(*b, 2, 4),
            "trilF": g.tril(*b, 2, 4, 4),
            "locH": g.real(*b, 2, 4),
            "trilH": g.tril(*b, 2, 4, 4),
        },
        lambda p: dist.GaussianMRF(_mvn(p, "0"), _mvn(p, "F"), _mvn(p, "H")),
        lambda g, b: g.real(*b, 2, 2),
    ),
    "GaussianScaleMixture": Case(
        lambda g, b: {"coord_scale": g.positive(2), "component_logits": g.real(3), "component_scale": g.positive(3)},
        _call(dist.GaussianScaleMixture),
        lambda g, b: g.real(2),
        gradient=False,
    ),
    "GeneralizedPareto": Case(
        _with(_LOC_SCALE, concentration="positive"),
        lambda p: dist.GeneralizedPareto(p["loc"], p["scale"], p["concentration"]),
    ),
    "Geometric": Case(_params(probs="unit"), _call(dist.Geometric)),
    "Geometric-logits": Case(_params(logits="real"), _call(dist.Geometric)),
    "GroupedNormalNormal": Case(
        lambda g, b: {"prior_loc": g.real(3), "prior_scale": g.positive(3), "obs_scale": g.positive(6)},
        lambda p: dist.GroupedNormalNormal(**p, group_idx=torch.tensor([0, 0, 1, 1, 2, 2])),
        lambda g, b: g.real(6),
    ),
    "Gumbel": Case(_LOC_SCALE, _call(dist.Gumbel)),
    "HalfCauchy": Case(_params(scale="positive"), _call(dist.HalfCauchy)),
    "HalfNormal": Case(_params(scale="positive"), _call(dist.HalfNormal)),
    "ImproperUniform": Case(
        lambda g, b: {}, lambda p: dist.ImproperUniform(dist.constraints.real, (2,), (3,)), lambda g, b: g.real(2, 3)
    ),
    "Independent": Case(_params(loc=("real", 3), scale=("positive", 3)), lambda p: dist.Normal(**p).to_event(1)),
    "IndependentHMM": Case(
        lambda g, b: _hmm_params(g, (*b, 2)),
        lambda p: dist.IndependentHMM(
            dist.GaussianHMM(
                _mvn({**p, "loc0": p["loc0"], "tril0": p["tril0"]}, "0"),
                p["F"],
                _mvn(p, "F"),
                p["H"][..., :1],
                dist.MultivariateNormal(p["locH"][..., :1], scale_tril=p["trilH"][..., :1, :1]),
                duration=2,
            )
        ),
        lambda g, b: g.real(*b, 2, 2),
    ),
    "InverseGamma": Case(_params(concentration="positive", rate="positive"), _call(dist.InverseGamma)),
    "Kumaraswamy": Case(_ONE, _call(dist.Kumaraswamy)),
    "LKJ": Case(_params(concentration="positive"), lambda p: dist.LKJ(3, p["concentration"])),
    "LKJCholesky": Case(_params(concentration="positive"), lambda p: dist.LKJCholesky(3, p["concentration"])),
    "LKJCorrCholesky": Case(_params(eta="positive"), lambda p: dist.LKJCorrCholesky(3, p["eta"])),
    "Laplace": Case(_LOC_SCALE, _call(dist.Laplace)),
    "LogNormal": Case(_LOC_SCALE, _call(dist.LogNormal)),
    "LogNormalNegativeBinomial": Case(
        _params(total_count="positive", logits="real", multiplicative_noise_scale="positive"),
        _call(dist.LogNormalNegativeBinomial),
        _counts(6),
    ),
    "Logistic": Case(_LOC_SCALE, _call(dist.Logistic)),
    "LogisticNormal": Case(_params(loc=("real", 2), scale=("positive", 2)), _call(dist.LogisticNormal)),
    "LowRankMultivariateNormal": Case(
        _params(loc=("real", 4), cov_factor=("real", 4, 2), cov_diag=("positive", 4)),
        _call(dist.LowRankMultivariateNormal),
    ),
    "MaskedDistribution": Case(_LOC_SCALE, lambda p: dist.Normal(**p).mask(torch.tensor(True))),
    "MaskedMixture": Case(
        _params(a="real", b="real"),
        lambda p: dist.MaskedMixture(
            torch.arange(p["a"].numel()).reshape(p["a"].shape) % 2 == 0,
            dist.Normal(p["a"], 1.0),
            dist.Normal(p["b"], 2.0),
        ),
    ),
    "MixtureOfDiagNormals": Case(
        _MIX, lambda p: dist.MixtureOfDiagNormals(p["locs"], p["coord_scale"], p["component_logits"])
    ),
    "MixtureOfDiagNormalsSharedCovariance": Case(
        _params(locs=("real", 3, 2), coord_scale=("positive", 2), component_logits=("real", 3)),
        _call(dist.MixtureOfDiagNormalsSharedCovariance),
    ),
    "MixtureSameFamily": Case(
        _params(logits=("real", 3), loc=("real", 3), scale=("positive", 3)),
        lambda p: dist.MixtureSameFamily(dist.Categorical(logits=p["logits"]), dist.Normal(p["loc"], p["scale"])),
    ),
    "Multinomial": Case(_params(logits=("real", 3)), _call(dist.Multinomial, total_count=6)),
    "MultivariateNormal": Case(
        _params(loc=("real", 3), covariance_matrix=("spd", 3, 3)), _call(dist.MultivariateNormal)
    ),
    "MultivariateNormal-tril": Case(
        _params(loc=("real", 3), scale_tril=("tril", 3, 3)), _call(dist.MultivariateNormal)
    ),
    "MultivariateNormal-precision": Case(
        _params(loc=("real", 3), precision_matrix=("spd", 3, 3)), _call(dist.MultivariateNormal)
    ),
    "MultivariateStudentT": Case(
        _params(df="positive", loc=("real", 3), scale_tril=("tril", 3, 3)), _call(dist.MultivariateStudentT)
    ),
    "NanMaskedMultivariateNormal": Case(
        _params(loc=("real", 3), scale_tril=("tril", 3, 3)),
        _call(dist.NanMaskedMultivariateNormal),
        lambda g, b: torch.where(torch.tensor([False, True, False]), torch.nan, g.real(*b, 3)),
        constant_value=True,
    ),
    "NanMaskedNormal": Case(
        _LOC_SCALE,
        _call(dist.NanMaskedNormal),
        lambda g, b: torch.where(torch.arange(math.prod(b)).reshape(b) % 2 == 0, torch.nan, g.real(*b)),
        constant_value=True,
    ),
    "NegativeBinomial": Case(_params(total_count="positive", logits="real"), _call(dist.NegativeBinomial)),
    "NegativeBinomial-probs": Case(_params(total_count="positive", probs="unit"), _call(dist.NegativeBinomial)),
    "Normal": Case(_LOC_SCALE, _call(dist.Normal)),
    "OMTMultivariateNormal": Case(
        lambda g, b: {"loc": g.real(3), "scale_tril": g.tril(3, 3)}, _call(dist.OMTMultivariateNormal)
    ),
    "OneHotCategorical": Case(_params(logits=("real", 4)), _call(dist.OneHotCategorical)),
    "OneHotCategoricalStraightThrough": Case(
        _params(logits=("real", 4)), _call(dist.OneHotCategoricalStraightThrough), differentiate_value=False
    ),
    "OneOneMatching": Case(
        lambda g, b: {"logits": g.real(3, 3)},
        lambda p: dist.OneOneMatching(p["logits"]),
        lambda g, b: torch.tensor([2, 0, 1]),
    ),
    "OneTwoMatching": Case(
        lambda g, b: {"logits": g.real(4, 2)},
        lambda p: dist.OneTwoMatching(p["logits"]),
        lambda g, b: torch.tensor([1, 0, 1, 0]),
    ),
    "OrderedLogistic": Case(
        lambda g, b: {"predictor": g.real(*b), "cutpoints": g.positive(*b, 3).cumsum(-1)}, _call(dist.OrderedLogistic)
    ),
    "Pareto": Case(_params(scale="positive", alpha="positive"), _call(dist.Pareto)),
    "Poisson": Case(_params(rate="positive"), _call(dist.Poisson)),
    "ProjectedNormal": Case(_params(concentration=("real", 3)), _call(dist.ProjectedNormal)),
    "ProjectedNormal-2d": Case(_params(concentration=("real", 2)), _call(dist.ProjectedNormal)),
    "RelaxedBernoulli": Case(
        _params(logits="real"), lambda p: dist.RelaxedBernoulli(torch.tensor(0.7).to(p["logits"]), logits=p["logits"])
    ),
    "RelaxedBernoulliStraightThrough": Case(
        _params(logits="real"),
        lambda p: dist.RelaxedBernoulliStraightThrough(torch.tensor(0.7).to(p["logits"]), logits=p["logits"]),
        lambda g, b: g.unit(*b),
    ),
    "RelaxedOneHotCategorical": Case(
        _params(logits=("real", 3)),
        lambda p: dist.RelaxedOneHotCategorical(torch.tensor(0.7).to(p["logits"]), logits=p["logits"]),
    ),
    "RelaxedOneHotCategoricalStraightThrough": Case(
        _params(logits=("real", 3)),
        lambda p: dist.RelaxedOneHotCategoricalStraightThrough(torch.tensor(0.7).to(p["logits"]), logits=p["logits"]),
        lambda g, b: g.simplex(*b, 3),
    ),
    "SineBivariateVonMises": Case(
        _params(
            phi_loc="real",
            psi_loc="real",
            phi_concentration="positive",
            psi_concentration="positive",
            correlation="unit",
        ),
        _call(dist.SineBivariateVonMises),
        lambda g, b: g.real(*b, 2),
    ),
    "SineSkewed": Case(
        lambda g, b: {"loc": g.real(*b, 2), "concentration": g.positive(*b, 2), "skewness": 0.4 * g.unit(*b, 2)},
        lambda p: dist.SineSkewed(dist.VonMises(p["loc"], p["concentration"]).to_event(1), p["skewness"]),
    ),
    "SkewLogistic": Case(_with(_LOC_SCALE, asymmetry="positive"), _call(dist.SkewLogistic)),
    "SoftAsymmetricLaplace": Case(
        _with(_LOC_SCALE, asymmetry="positive", softness="positive"), _call(dist.SoftAsymmetricLaplace)
    ),
    "SoftLaplace": Case(_LOC_SCALE, _call(dist.SoftLaplace)),
    "SpanningTree": Case(
        lambda g, b: {"edge_logits": g.real(6)},
        _call(dist.SpanningTree),
        lambda g, b: torch.tensor([[0, 1], [1, 2], [1, 3]]),
    ),
    "StableWithLogProb": Case(
        lambda g, b: {
            "stability": 1.0 + 0.7 * g.unit(*b),
            "skew": 0.5 * g.unit(*b),
            "scale": g.positive(*b),
            "loc": g.real(*b),
        },
        _call(dist.StableWithLogProb),
        lambda g, b: g.real(*b),
    ),
    "StudentT": Case(_with(_LOC_SCALE, df="positive"), _call(dist.StudentT)),
    "TransformedDistribution": Case(
        _LOC_SCALE,
        lambda p: dist.TransformedDistribution(
            dist.Normal(**p), [dist.transforms.SigmoidTransform(), dist.transforms.AffineTransform(1.0, 2.0)]
        ),
    ),
    "TruncatedPolyaGamma": Case(
        lambda g, b: {},
        lambda p: dist.TruncatedPolyaGamma(torch.ones(2, dtype=torch.get_default_dtype())),
        lambda g, b: g.unit(2),
    ),
    "Uniform": Case(
        lambda g, b: {"low": g.real(*b), "width": g.positive(*b)},
        lambda p: dist.Uniform(p["low"], p["low"] + p["width"]),
    ),
    "Unit": Case(_params(log_factor="real"), _call(dist.Unit), lambda g, b: torch.zeros(*b, 0)),
    "VonMises": Case(_params(loc="real", concentration="positive"), _call(dist.VonMises)),
    "VonMises3D": Case(
        lambda g, b: {"concentration": g.real(3)},
        _call(dist.VonMises3D),
        lambda g, b: torch.nn.functional.normalize(g.real(*b, 3), dim=-1),
    ),
    "Weibull": Case(_params(scale="positive", concentration="positive"), _call(dist.Weibull)),
    "Wishart": Case(
        lambda g, b: {"df": 4.0 + g.positive(*b), "scale_tril": g.tril(*b, 3, 3)},
        _call(dist.Wishart),
        lambda g, b: g.spd(*b, 3, 3),
    ),
    "Wishart-covariance": Case(
        lambda g, b: {"df": 4.0 + g.positive(*b), "covariance_matrix": g.spd(*b, 3, 3)},
        _call(dist.Wishart),
        lambda g, b: g.spd(*b, 3, 3),
    ),
    "ZeroInflatedDistribution": Case(
        _params(rate="positive", gate="unit"),
        lambda p: dist.ZeroInflatedDistribution(dist.Poisson(p["rate"]), gate=p["gate"]),
        _counts(4),
    ),
    "ZeroInflatedNegativeBinomial": Case(
        _params(total_count="positive", logits="real", gate_logits="real"),
        _call(dist.ZeroInflatedNegativeBinomial),
        _counts(4),
    ),
    "ZeroInflatedPoisson": Case(_params(rate="positive", gate="unit"), _call(dist.ZeroInflatedPoisson), _counts(4)),
}


class _CoalescentRate:
    """`CoalescentRateLikelihood` is called, not scored: give it the same shape as the others."""

    def __init__(self, p: Params) -> None:
        like = p["rate_grid"]
        leaves = torch.tensor([0.0, 0.5, 2.5, 4.0]).to(like)
        self.rate = like
        self.likelihood = dist.CoalescentRateLikelihood(leaves, torch.tensor([-2.3, -0.7, 0.4]).to(like), 9)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        return self.likelihood(self.rate)
