"""Inference: fits and samples, and the posterior they return."""

from ._compare import Comparison as Comparison
from ._compare import compare as compare
from ._estimator_comparison import EstimatorComparison as EstimatorComparison
from ._evidence import EvidenceBounds as EvidenceBounds
from ._evidence import evidence_bounds as evidence_bounds
from ._fit import fit as fit
from ._laboratory import compare_estimators as compare_estimators
from ._posterior import Posterior as Posterior
from ._resume import resume as resume
from ._sample import sample as sample
from ._sample_distances import energy_distance as energy_distance
from ._sample_distances import mmd as mmd
from ._sample_distances import sliced_wasserstein as sliced_wasserstein
from ._sample_sets import Discrepancy as Discrepancy
from ._sbc import Calibration as Calibration
from ._sbc import sbc as sbc
from ._sinkhorn_distance import sinkhorn_distance as sinkhorn_distance
from ._stein_discrepancy import ksd as ksd
from ._storage import load as load
from ._verdict import Verdict as Verdict
from ._verdict import diagnose as diagnose
