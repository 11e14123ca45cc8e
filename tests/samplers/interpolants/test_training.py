"""Training: what is learned, from what, and how a run goes on."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pushforward as pf
from pushforward.samplers.interpolants._ends import make_ends

si = pf.interpolants
QUIET = {"progress": False}
DRAWS = 0.3 * jax.random.normal(jax.random.key(1), (500, 2)) + jnp.array([1.0, -2.0])
OTHERS = jax.random.normal(jax.random.key(2), (400, 2))


def small(num_outputs=1, condition_size=0, dtype=None) -> si.FieldNetwork:
    return si.FieldNetwork(
        jax.random.key(0),
        (2,),
        num_outputs,
        condition_size=condition_size,
        width=16,
        depth=2,
        num_frequencies=4,
        dtype=dtype,
    )


def train_small(path=None, base=OTHERS, target=DRAWS, **settings):
    path = si.Linear() if path is None else path
    one = base is None
    given = {"network": small(1 if one else 2), "num_steps": 20, "batch_size": 32} | QUIET | settings
    return si.train(jax.random.key(3), path, base, target, **given)


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_array))]


def test_resumed_bit_for_bit(tmp_path):
    """Twenty steps, a file, twenty more: the fields and the losses of forty at once."""
    settings = {"optimizer": optax.adam(1e-2), "averaging": 0.9}
    whole = train_small(num_steps=40, **settings)
    file = tmp_path / "run.pf"
    half = train_small(num_steps=20, checkpoint=file, **settings)
    both = si.resume_training(file, num_steps=40, **QUIET)
    assert whole.losses.shape == (40, 2)
    np.testing.assert_array_equal(both.losses, whole.losses)
    np.testing.assert_array_equal(half.losses, whole.losses[:20])
    for one, other in zip(leaves(both.fields), leaves(whole.fields), strict=True):
        np.testing.assert_array_equal(one, other)
    assert any((a != b).any() for a, b in zip(leaves(whole.fields), leaves(whole.last_fields), strict=True))
    with pytest.raises(ValueError, match="40 steps"):
        si.resume_training(file, num_steps=30)
    with pytest.raises(ValueError, match="resume_training"):
        pf.resume(file)


@pytest.mark.slow
def test_average_is_of_the_iterates():
    """One step from zero: the average has moved by one tenth of the way less what its decay keeps."""
    fitted = train_small(num_steps=1, averaging=0.999)
    start = si.LearnedFields(si.Linear(), ("velocity", "noise"), small(2)).networks
    for first, average, last in zip(
        leaves(start), leaves(fitted.fields.networks), leaves(fitted.last_fields.networks), strict=True
    ):
        np.testing.assert_allclose(average, first + 0.9 * (last - first), rtol=1e-12, atol=1e-15)


@pytest.mark.slow
def test_single_precision_and_arrays_of_any_shape():
    """The dtype is that of the target, points may have any shape, and sources be functions."""
    with jax.enable_x64(False):

        def target(key, num):
            return jax.random.normal(key, (num, 2, 3)) + 1.0

        fitted = si.train(jax.random.key(0), si.OneSidedLinear(), None, target, num_steps=2, batch_size=8, **QUIET)
        assert {leaf.dtype for leaf in leaves(fitted.fields.networks)} == {np.dtype(np.float32)}
        moved = si.flow(fitted.fields, jnp.zeros((4, 2, 3)), num_steps=2)
    assert moved.shape == (4, 2, 3)
    assert np.isfinite(fitted.losses).all()


@pytest.mark.slow
def test_gaussian_base_to_gaussian_target_through_condition():
    """The mean follows a condition that shifts it; preconditioned fields alone have the mean of all."""
    labels = jnp.where(jnp.arange(500) % 2 == 0, 1.0, -1.0)[:, None]
    target = 0.2 * jax.random.normal(jax.random.key(5), (500, 2)) + labels
    fitted = train_small(
        si.OneSidedLinear(),
        None,
        target,
        condition=labels,
        network=small(1, 1),
        num_steps=400,
        batch_size=128,
        optimizer=optax.adam(1e-2),
        averaging=0.98,
    )
    wanted = jnp.where(jnp.arange(400) % 2 == 0, 1.0, -1.0)[:, None]
    moved = np.asarray(si.flow(fitted.fields, OTHERS, num_steps=20, condition=wanted))
    for sign in (1.0, -1.0):
        mine = moved[np.asarray(wanted)[:, 0] == sign]
        np.testing.assert_allclose(mine.mean(axis=0), sign, atol=0.15)
        assert (mine.std(axis=0) < 0.4).all()


@pytest.mark.slow
def test_networks_of_ones_own():
    """An equinox module of two inputs and lists, one for all or one for each prediction, preconditioned or not."""

    class Own(eqx.Module):
        layers: list
        scale: np.ndarray

        def __init__(self, key):
            self.layers = [eqx.nn.Linear(3, 8, key=key), jnp.tanh, eqx.nn.Linear(8, 2, key=key)]
            self.scale = np.ones(2)

        def __call__(self, t, x, condition):
            hidden = jnp.concatenate([x, t[None]])
            for layer in self.layers:
                hidden = layer(hidden)
            return self.scale * hidden

    pair = Own(jax.random.key(0)), Own(jax.random.key(1))
    fitted = train_small(network=pair, precondition=False)
    assert np.isfinite(fitted.losses).all()
    assert fitted.fields.preconditioner is None
    assert all((a != b).any() for a, b in zip(leaves(pair), leaves(fitted.last_fields.networks), strict=True) if a.size)


@pytest.mark.slow
def test_loss_of_ones_own():
    """A function of the fields and a batch; here the bound of diffusion models, which falls to its noise."""
    loss = si.DiffusionLoss()
    fitted = train_small(si.VariancePreserving(), None, loss=loss, predicts="noise", num_steps=5)
    assert fitted.losses.shape == (5, 2)


@pytest.mark.slow
def test_couplings_pair_what_belongs_together():
    """Transport shortens the ways, given pairs stay together, and a Schroedinger coupling has the path's noise."""
    key = jax.random.key(0)
    x, y = OTHERS[:64], DRAWS[:64]
    coupling = si.MinibatchTransport(32)
    rows, columns = coupling.pairs(key, x, y)
    assert sorted(np.asarray(rows)) == list(range(64)) == sorted(np.asarray(columns))
    assert (np.asarray(rows) // 32 == np.asarray(columns) // 32).all()
    cost = np.sum(np.asarray(x[rows] - y[columns]) ** 2)
    assert cost < 0.95 * np.sum(np.asarray(x - y) ** 2)
    pairs = train_small(base=DRAWS + 1.0, coupling=si.Paired(), predicts="velocity", network=small(), num_steps=200)
    found = pairs.fields.velocity(jnp.asarray(0.5), jnp.array([1.5, -1.5]))
    np.testing.assert_allclose(found, -1.0, atol=0.2)
    bridge = si.schroedinger(si.Linear(si.Brownian(0.3)))
    np.testing.assert_allclose(bridge.epsilon, 0.6)
    assert bridge.replace
    with pytest.raises(ValueError, match="no Schroedinger"):
        si.schroedinger(si.Trigonometric())


@pytest.mark.slow
def test_conditions_stay_with_their_draws():
    """Whatever is paired with what, a condition goes with the draw of the target that it came with."""
    given = {"first": DRAWS[:, 0], "both": DRAWS}
    path, key = si.Linear(), jax.random.key(0)
    for coupling, condition in [(si.Independent(), given), (si.MinibatchTransport(8), DRAWS)]:
        ends = make_ends(key, path, OTHERS, DRAWS, condition, coupling)
        (base, target), found = ends.draw(key, 16, coupling)
        np.testing.assert_array_equal(found["both"] if isinstance(found, dict) else found, target)
        assert not np.array_equal(base, target)
    with pytest.raises(ValueError, match="single array"):
        make_ends(key, path, OTHERS, DRAWS, given, si.MinibatchTransport(8))
    ends = make_ends(key, path, DRAWS + 1.0, DRAWS, None, si.Paired())
    (base, target), _ = ends.draw(key, 16, si.Paired())
    np.testing.assert_allclose(base - target, 1.0)


def test_straightness_and_reflow():
    """Known for a rotation: one quarter turn at constant speed; and pairs that are where the flow ends."""

    def turn(t, x, condition):
        return 0.5 * jnp.pi * jnp.stack([-x[1], x[0]])

    fields = si.LearnedFields(si.Linear(si.NoNoise()), "velocity", turn)
    base, ends = si.reflow(fields, OTHERS)
    np.testing.assert_allclose(ends, np.stack([-OTHERS[:, 1], OTHERS[:, 0]], axis=1), atol=1e-3)
    squares = np.mean(np.sum(np.asarray(base) ** 2, axis=1))
    found = si.straightness(fields, base)
    np.testing.assert_allclose(found.cost, 2.0 * squares, rtol=1e-3)
    np.testing.assert_allclose(found.value, (0.25 * np.pi**2 - 2.0) * squares, rtol=1e-2)
    assert found.standard_error > 0


@pytest.mark.slow
def test_non_finite_losses_stop_the_run():
    """With the step at which it happened."""

    def loss(key, fields, ends, condition):
        return jnp.log(-jnp.ones(())) + 0.0 * jnp.sum(fields.networks[0].biases[-1])

    with pytest.raises(FloatingPointError, match="step 0"):
        train_small(loss=loss)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"base": None}, "two|2 end"),
        ({"path": si.OneSidedLinear()}, "1 end"),
        ({"target": [1.0, 2.0]}, "at least two"),
        ({"target": DRAWS.at[3, 0].set(jnp.nan)}, "finite"),
        ({"target": DRAWS[:, :1]}, "one shape"),
        ({"target": np.arange(10).reshape(5, 2)}, "floating"),
        ({"condition": jnp.zeros(3)}, "one entry"),
        ({"coupling": "transport"}, "MinibatchTransport"),
        ({"coupling": si.Paired()}, "as many rows"),
        ({"predicts": "noise"}, "do not follow"),
        ({"num_steps": 0}, "num_steps"),
        ({"batch_size": 1}, "batch_size"),
        ({"averaging": 1.0}, "below 1"),
        ({"optimizer": 1e-3}, "optax"),
        ({"network": lambda t, x, c: jnp.zeros((2, 2))}, "to learn"),
        ({"path": "linear"}, "expected a path"),
        ({"checkpoint_every": "a"}, "checkpoint_every='a'"),
        ({"checkpoint_every": -1.0}, "checkpoint_every=-1.0"),
        ({"predicts": 3}, "expected different names"),
        ({"loss": "quadratic"}, "expected a function loss"),
        ({"target": lambda key, num: jnp.zeros((3, 2))}, r"target\(key, 2\) returned an array of shape \(3, 2\)"),
        ({"base": lambda key, num: jnp.zeros((7, 2))}, r"base\(key, 2\) returned an array of shape \(7, 2\)"),
        ({"target": lambda key, num: (jnp.zeros((num, 2)), jnp.zeros(9))}, "and a condition for each"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_input(settings, match):
    """One paragraph that names what is wrong."""
    with pytest.raises(ValueError, match=match):
        train_small(**settings)
