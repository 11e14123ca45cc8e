"""The engine: what all algorithms share."""

from ._progress import Progress as Progress
from ._run import NonFiniteError as NonFiniteError
from ._run import RunResult as RunResult
from ._run import run as run
from ._run import step_keys as step_keys
