"""The usual neural-network layers: outputs and gradients (inputs and weights) in JAX against torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro_translation import QUICK, TOLERANCE, Gen, compare
from tiers import fast
from torch import nn

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Linear": (lambda: nn.Linear(4, 3), (4,)),
    "Bilinear": (lambda: _Twice(nn.Bilinear(4, 4, 3)), (4,)),
    "Conv1d": (lambda: nn.Conv1d(2, 4, 3, stride=2, padding=1, groups=2), (2, 9)),
    "Conv2d": (lambda: nn.Conv2d(2, 3, (3, 2), padding="same", dilation=(1, 2)), (2, 6, 5)),
    "Conv2d-reflect": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 5, 5)),
    "Conv3d": (lambda: nn.Conv3d(1, 2, 2), (1, 3, 4, 3)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 2, 3, stride=2, padding=1, output_padding=1, groups=2), (4, 5)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 3, 3, stride=2, dilation=2), (2, 4, 3)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(1, 2, 2, stride=2), (1, 2, 3, 2)),
    "BatchNorm1d-train": (lambda: nn.BatchNorm1d(4), (4,)),
    "BatchNorm1d-eval": (lambda: nn.BatchNorm1d(4).eval(), (4,)),
    "BatchNorm2d-train": (lambda: nn.BatchNorm2d(3), (3, 4, 4)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(3, affine=True), (3, 4, 4)),
    "LayerNorm": (lambda: nn.LayerNorm((3, 4)), (3, 4)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (4, 5)),
    "RMSNorm": (lambda: nn.RMSNorm(4), (3, 4)),
    "LocalResponseNorm": (lambda: nn.LocalResponseNorm(2), (4, 5)),
    "MaxPool1d": (lambda: nn.MaxPool1d(3, 2, padding=1), (2, 9)),
    "MaxPool2d": (lambda: nn.MaxPool2d(2, ceil_mode=True), (2, 5, 5)),
    "MaxPool3d": (lambda: nn.MaxPool3d(2), (1, 4, 4, 4)),
    "AvgPool1d": (lambda: nn.AvgPool1d(3, 2, padding=1), (2, 9)),
    "AvgPool2d": (lambda: nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False), (2, 5, 5)),
    "AvgPool3d": (lambda: nn.AvgPool3d(2), (1, 4, 4, 4)),
    "AdaptiveAvgPool1d": (lambda: nn.AdaptiveAvgPool1d(3), (2, 7)),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d((2, 3)), (2, 5, 7)),
    "AdaptiveMaxPool1d": (lambda: nn.AdaptiveMaxPool1d(3), (2, 7)),
    "AdaptiveMaxPool2d": (lambda: nn.AdaptiveMaxPool2d((2, 3)), (2, 5, 7)),
    "LPPool2d": (lambda: nn.LPPool2d(2, 2), (2, 4, 4)),
    "Upsample-nearest": (lambda: nn.Upsample(scale_factor=2), (2, 3, 3)),
    "Upsample-bilinear": (lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), (2, 3, 3)),
    "PixelShuffle": (lambda: nn.PixelShuffle(2), (4, 3, 3)),
    "PixelUnshuffle": (lambda: nn.PixelUnshuffle(2), (2, 4, 4)),
    "ChannelShuffle": (lambda: nn.ChannelShuffle(2), (4, 3, 3)),
    "ConstantPad2d": (lambda: nn.ConstantPad2d((1, 2, 0, 1), 3.5), (2, 3, 3)),
    "ReplicationPad1d": (lambda: nn.ReplicationPad1d(2), (2, 5)),
    "CircularPad1d": (lambda: nn.CircularPad1d(2), (2, 5)),
    "Unfold": (lambda: nn.Unfold(2), (2, 4, 4)),
    "RNN": (lambda: _First(nn.RNN(3, 4, batch_first=True)), (5, 3)),
    "LSTM": (lambda: _First(nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True)), (4, 3)),
    "GRU": (lambda: _First(nn.GRU(3, 4, batch_first=True)), (5, 3)),
    "RNN-relu": (lambda: _First(nn.RNN(3, 4, nonlinearity="relu")), (5, 3)),
    "RNNCell": (lambda: nn.RNNCell(3, 4), (3,)),
    "LSTMCell": (lambda: _First(nn.LSTMCell(3, 4)), (3,)),
    "GRUCell": (lambda: nn.GRUCell(3, 4), (3,)),
    "MultiheadAttention": (lambda: _SelfAttention(), (5, 4)),
    "TransformerEncoderLayer": (
        lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True).eval(),
        (5, 4),
    ),
    "TransformerDecoderLayer": (
        lambda: _Twice(nn.TransformerDecoderLayer(4, 2, 8, dropout=0.0, batch_first=True)),
        (5, 4),
    ),
    "Dropout-eval": (lambda: nn.Dropout(0.5).eval(), (4,)),
    "weight-norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), (4,)),
    "Embedding": (lambda: _Embed(nn.Embedding(5, 3, padding_idx=1)), (4,)),
    "CosineSimilarity": (lambda: _Halves(nn.CosineSimilarity(-1)), (6,)),
    "PairwiseDistance": (lambda: _Halves(nn.PairwiseDistance()), (6,)),
    "Softmax2d": (lambda: nn.Softmax2d(), (3, 2, 2)),
    "Flatten": (lambda: nn.Flatten(), (3, 4)),
    "BCEWithLogitsLoss": (lambda: _Halves(lambda a, b: nn.BCEWithLogitsLoss()(a, b.sigmoid())), (6,)),
    "CrossEntropyLoss": (lambda: _Classify(nn.CrossEntropyLoss(label_smoothing=0.1)), (4,)),
    "NLLLoss": (lambda: _Classify(lambda x, y: nn.NLLLoss()(x.log_softmax(-1), y)), (4,)),
    "HuberLoss": (lambda: _Halves(nn.HuberLoss()), (6,)),
    "SmoothL1Loss": (lambda: _Halves(nn.SmoothL1Loss()), (6,)),
    "KLDivLoss": (lambda: _Halves(lambda a, b: nn.KLDivLoss(reduction="sum")(a.log_softmax(-1), b.softmax(-1))), (6,)),
    "cdist": (lambda: _Halves(lambda a, b: torch.cdist(a, b)), (6,)),
    "norms": (
        lambda: _Apply(lambda x: torch.stack([x.norm(), x.norm(p=1), x.norm(dim=-1).sum(), x.norm(float("inf"))])),
        (6,),
    ),
    "block_diag": (lambda: _Halves(lambda a, b: torch.block_diag(a, b)), (6,)),
    "einsum": (lambda: _Halves(lambda a, b: torch.einsum("ni,nj->nij", a, b)), (6,)),
    "fft": (lambda: _Apply(lambda x: torch.fft.irfft(torch.fft.rfft(x), n=x.shape[-1]) + torch.fft.fft(x).abs()), (6,)),
}

ACTIVATIONS = [
    nn.ELU, nn.Hardshrink, nn.Hardtanh, nn.Hardswish, nn.LeakyReLU, nn.LogSigmoid, nn.PReLU,
    nn.ReLU, nn.ReLU6, nn.SELU, nn.CELU, nn.GELU, nn.Sigmoid, nn.SiLU, nn.Mish, nn.Softplus, nn.Softshrink, nn.Softsign,
    nn.Tanh, nn.Tanhshrink, nn.GLU,
    lambda: nn.GELU(approximate="tanh"), lambda: nn.Threshold(0.1, 2.0), lambda: nn.Softmin(-1), lambda: nn.Softmax(-1),
    lambda: nn.LogSoftmax(-1), lambda: nn.RReLU().eval(),
]  # fmt: skip


class _Apply(nn.Module):
    def __init__(self, inner: Callable[..., Any]) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x)


class _First(_Apply):
    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x)[0]


class _Twice(_Apply):
    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x, x * 0.5)


class _Halves(_Apply):
    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(*x.chunk(2, -1))


class _Classify(_Apply):
    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x, torch.arange(x.shape[0]) % 3)


class _Embed(_Apply):
    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(torch.tensor([0, 1, 3, 3])) * x[..., :1, None].sum()


class _SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> Any:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1]).to(x.dtype)
        return self.attention(x, x, x, attn_mask=mask, need_weights=True)


def _check(make: Callable[[], nn.Module], shape: tuple[int, ...], batch: int, seed: int, dtype: torch.dtype) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = make().to(dtype)
    points = []
    for i in range(2):
        g = Gen(seed + i, dtype)
        weights = {k: v + 0.1 * g.real(*v.shape) for k, v in module.named_parameters()}
        buffers = {f"buffer.{k}": v.clone() for k, v in module.named_buffers()}
        points.append({**weights, **buffers, "x": g.real(batch, *shape)})

    def apply(x: dict[str, torch.Tensor]) -> Any:
        state = {k.removeprefix("buffer."): v for k, v in x.items() if k != "x"}
        return torch.func.functional_call(module, state, (x["x"],))

    compare(apply, points[0], points[1], TOLERANCE[dtype])


@pytest.mark.parametrize("name", fast(sorted(LAYERS), *sorted(LAYERS)[::3]))
@QUICK
@given(batch=st.integers(2, 3), seed=st.integers(0, 2**16))
def test_layer(name: str, batch: int, seed: int) -> None:
    make, shape = LAYERS[name]
    _check(make, shape, batch, seed, torch.float64)
    _check(make, shape, batch, seed, torch.float32)


@settings(QUICK, max_examples=2)
@given(batch=st.integers(1, 4), seed=st.integers(0, 2**16))
def test_activations(batch: int, seed: int) -> None:
    class All(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([a() for a in ACTIVATIONS])

        def forward(self, x: torch.Tensor) -> Any:
            return tuple(layer(3.0 * x) for layer in self.layers)

    _check(All, (6,), batch, seed, torch.float64)
    _check(All, (6,), batch, seed, torch.float32)


def test_hardsigmoid() -> None:
    """Torch's own derivative is one sixth in single precision."""
    points = [{"x": 3.0 * Gen(seed, torch.float64).real(4)} for seed in range(2)]
    compared = compare(lambda x: nn.functional.hardsigmoid(x["x"]), points[0], points[1], 1e-8)
    x = points[1]["x"].numpy()
    np.testing.assert_allclose(compared.outputs[0], np.clip(x / 6.0 + 0.5, 0.0, 1.0), rtol=1e-14)
    slope = np.where(np.abs(x) < 3.0, 1.0 / 6.0, 0.0)
    np.testing.assert_allclose(compared.gradients["x"], np.linspace(0.5, 1.5, 4) * slope, rtol=1e-8)
