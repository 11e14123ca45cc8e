"""JAX lowerings of torch operations, by theme, and the table that holds them.

A lowering is a pure function with the operation's own signature; arrays arrive as JAX arrays, dtypes as strings.
Results are rounded to the dtype and checked against the shape that torch recorded.
"""

from __future__ import annotations

from ._factory import TABLE as _FACTORY
from ._indexing import TABLE as _INDEXING
from ._linalg import TABLE as _LINALG
from ._nn import TABLE as _NN
from ._pointwise import TABLE as _POINTWISE
from ._pooling import TABLE as _POOLING
from ._reduction import TABLE as _REDUCTION
from ._registry import Lowering, find_in, find_registered
from ._registry import register_lowering as register_lowering
from ._shape import TABLE as _SHAPE
from ._special import TABLE as _SPECIAL

TABLE: dict[str, Lowering] = {
    **_FACTORY,
    **_INDEXING,
    **_LINALG,
    **_NN,
    **_POINTWISE,
    **_POOLING,
    **_REDUCTION,
    **_SHAPE,
    **_SPECIAL,
}


ELEMENTWISE = frozenset(_POINTWISE) | frozenset(_SPECIAL) | {"aten.clone", "aten.detach", "aten.alias", "aten.softplus"}
"""Operations without overload whose operands may be given before they are broadcast."""

ALONG_AXIS = frozenset(
    {
        "aten._softmax",
        "aten._log_softmax",
        "aten.logsumexp",
        "aten.sum",
        "aten.mean",
        "aten.amax",
        "aten.amin",
        "aten.cumsum",
    }
)
"""The same, if the axes in their second argument are not broadcast ones."""


def find_lowering(op: str) -> Lowering | None:
    """The lowering of ``"aten.add.Tensor"``: the user's, else the overload's, else that of ``"aten.add"``."""
    return find_registered(op) or find_in(TABLE, op)
