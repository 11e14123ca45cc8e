"""Data for the Pyro programs."""

from __future__ import annotations

from typing import Any

import numpy as np


def tensor(values: Any) -> Any:
    """Numbers as a float64 tensor. Imports torch on first use."""
    import torch

    return torch.as_tensor(np.asarray(values, np.float64))
