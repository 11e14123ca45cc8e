"""Strategies for single random sites."""

from ._base import AbstractSiteStrategy as AbstractSiteStrategy
from ._base import Outcome as Outcome
from ._enumerate import Enumerate as Enumerate
from ._implicit import Implicit as Implicit
from ._measure_valued import MeasureValued as MeasureValued
from ._pathwise import PathSite as PathSite
from ._pathwise import ReparamSite as ReparamSite
from ._rejection import Rejection as Rejection
from ._relax import Relax as Relax
from ._score import ScoreSite as ScoreSite
