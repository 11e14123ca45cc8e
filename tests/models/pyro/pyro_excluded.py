"""Names of `pyro.distributions` that have no density of their own, with the reason of each."""

from __future__ import annotations

EXCLUDED = {
    "ComposeTransformModule": "a transform, not a distribution",
    "ConditionalDistribution": "abstract: a distribution only once it is conditioned",
    "ConditionalTransform": "a transform, not a distribution",
    "ConditionalTransformModule": "a transform, not a distribution",
    "ConditionalTransformedDistribution": "abstract: conditioning gives a TransformedDistribution, which is tested",
    "Distribution": "abstract base class",
    "Empirical": "a weighted sample: log_prob looks values up by equality, which is no density",
    "ExpandedDistribution": "what .expand returns for other distributions; its log_prob is theirs (covered by plates)",
    "ExponentialFamily": "abstract base class",
    "LinearHMM": "its log_prob raises NotImplementedError",
    "Rejector": "its density is the user's own log_prob_accept and proposal",
    "Stable": "has no density in closed form: log_prob raises (StableWithLogProb is tested)",
    "TorchDistribution": "abstract base class",
    "TransformModule": "a transform, not a distribution",
}
