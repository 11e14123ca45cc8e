"""What the public functions beside `solve` say to input that they cannot use."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import pushforward as pf

X, Y = np.random.default_rng(0).normal(size=(6, 2)), np.random.default_rng(1).normal(size=(7, 2))
ROWS = np.full((2, 6), 1 / 6)
KEY = jax.random.key(0)
transport = pf.transport


class Unreadable:
    """Like a tensor of another library that is still part of a computation."""

    def __array__(self, *_, **__):
        raise RuntimeError("call detach() first")


def bridge(scales=((1.0, 1.0),), epsilon=1.0):
    return transport.LightSB([0.0], [[1.0, 1.0]], scales, epsilon)


REFUSED = {
    "tensor": (lambda: transport.sinkhorn_divergence(Unreadable(), Y, epsilon=0.5), "x is Unreadable.*detach"),
    "objects": (lambda: transport.sliced_wasserstein(KEY, X.astype(object), Y), "ndarray of dtype object"),
    "masked": (lambda: transport.exact(np.ma.masked_array(X, X > 0), Y), "Masked entries have no value"),
    "uneven": (lambda: transport.exact([[1.0, 2.0], [3.0]], Y), "nested evenly"),
    "array for a count": (lambda: transport.sliced_wasserstein(KEY, X, Y, num_directions=np.ones(2)), "an integer of"),
    "flag": (
        lambda: transport.barycenter(ROWS, X, epsilon=0.5, debiased="no"),
        "debiased='no': expected True or False",
    ),
    "histograms": (lambda: transport.barycenter([[0.5, 0.5], [1.0]], X, epsilon=0.5), "histograms is list"),
    "support": (lambda: transport.barycenter(ROWS, np.nan * X, epsilon=0.5), "points has coordinates"),
    "no cost": (lambda: transport.barycenter(ROWS, X, cost=3, epsilon=0.5), "cost is int and points are given too"),
    "no clouds": (lambda: transport.free_barycenter(None, X, epsilon=0.5), "clouds is NoneType"),
    "cloud": (lambda: transport.free_barycenter([X, np.nan * Y], X, epsilon=0.5), r"clouds\[1\] has coordinates"),
    "dimension": (lambda: transport.free_barycenter([X, Y[:, :1]], X, epsilon=0.5), r"clouds\[1\] has shape \(7, 1\)"),
    "weights of a cloud": (
        lambda: transport.free_barycenter([X], X, epsilon=0.5, cloud_weights=[np.ones(5)]),
        r"cloud_weights\[0\] has shape",
    ),
    "no steps": (lambda: transport.free_barycenter([X, Y], X, epsilon=0.5, max_steps=0), "max_steps=0"),
    "names for labels": (lambda: transport.coupling(KEY, X, X, condition=np.array(list("aabbcc"))), "numpy.unique"),
    "condition": (lambda: transport.coupling(KEY, X, X, condition=np.full(6, np.nan)), "condition has entries"),
    "replace": (lambda: transport.coupling(KEY, X, X, replace="no"), "replace='no'"),
    "half": (lambda: transport.ensemble_transform(X.astype(np.float16), np.ones(6) / 6), "float16: expected float32"),
    "axes": (lambda: transport.Grid(3), "axes is int"),
    "tolerance of a fit": (
        lambda: transport.LightSB.fit(KEY, X, Y, epsilon=1.0, num_components=2, tolerance=np.nan),
        "tolerance=nan",
    ),
    "scales": (lambda: bridge(None), "scales is NoneType"),
    "asymmetric": (lambda: bridge([[[1.0, 0.5], [-0.5, 1.0]]]), "halves differ by 1"),
    "pairs": (lambda: bridge().log_prob(np.zeros((3, 2)), np.zeros((4, 2))), "one x for each y"),
    "pairing": (lambda: transport.map_cost(X, X + 1, pairing="no"), "pairing='no'"),
    "underflow": (
        lambda: transport.solve(X.astype(np.float32), Y.astype(np.float32), epsilon=1e-60),
        "epsilon=1e-60 is beyond what float32 holds",
    ),
    "vectors": (lambda: transport.one_dimensional(X[:, 0], Y[:, 0]).apply(np.ones(3)), "a first axis of 7"),
    "barycentric": (
        lambda: transport.gaussian_transport(np.zeros(2), np.eye(2), np.ones(2), np.eye(2), 1.0).barycentric(X[:, :1]),
        r"expected points \(n, 2\)",
    ),
    "epsilon of a distance": (lambda: pf.infer.sinkhorn_distance(X, Y, epsilon="a"), "epsilon='a'"),
    "points of a distance": (lambda: pf.infer.sinkhorn_distance(X, Y, max_points=0), "max_points=0"),
    "equal points": (lambda: pf.infer.sinkhorn_distance(0 * X, 0 * Y), "All points of both sets agree"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    call, said = REFUSED[case]
    with pytest.raises(ValueError, match=said):
        call()


def test_divergence_of_two_dtypes_is_computed_in_the_wider_one():
    found = jax.eval_shape(lambda: transport.sinkhorn_divergence(X.astype(np.float32), Y, epsilon=1.0))
    assert {part.precision for part in (found.between, *found.within)} == {"float64"}
    assert found.value.dtype == np.float64
