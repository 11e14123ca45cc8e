"""The engine: what all algorithms share."""

from ._checkpoint import Checkpoint as Checkpoint
from ._checkpoint import check_writable as check_writable
from ._checkpoint import checkpoint_writer as checkpoint_writer
from ._checkpoint import read_checkpoint as read_checkpoint
from ._online import Online as Online
from ._online import OnlineState as OnlineState
from ._online import figures as figures
from ._pairs import reduce_pairs as reduce_pairs
from ._progress import Progress as Progress
from ._run import NonFiniteError as NonFiniteError
from ._run import RunResult as RunResult
from ._run import initialise as initialise
from ._run import run as run
from ._run import step_keys as step_keys
