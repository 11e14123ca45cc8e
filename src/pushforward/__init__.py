"""Probabilistic inference on JAX for NumPyro and Pyro programs. Import as ``import pushforward as pf``.

This file re-exports public names and holds no logic. Two modules are loaded when they are first used.
"""

from __future__ import annotations

from importlib.metadata import version as _version
from typing import TYPE_CHECKING as _TYPE_CHECKING

from ._on_use import names_with as _names_with
from ._on_use import on_use as _on_use
from .estimators import CUBO as CUBO
from .estimators import ELBO as ELBO
from .estimators import IWELBO as IWELBO
from .estimators import TVO as TVO
from .estimators import VIS as VIS
from .estimators import Adaptive as Adaptive
from .estimators import AffineControl as AffineControl
from .estimators import Enumerate as Enumerate
from .estimators import ForwardKL as ForwardKL
from .estimators import Implicit as Implicit
from .estimators import LearnedBaseline as LearnedBaseline
from .estimators import MeasureValued as MeasureValued
from .estimators import Path as Path
from .estimators import Price as Price
from .estimators import Rejection as Rejection
from .estimators import Relax as Relax
from .estimators import Renyi as Renyi
from .estimators import Reparam as Reparam
from .estimators import Score as Score
from .estimators import objective as objective
from .infer import Calibration as Calibration
from .infer import Comparison as Comparison
from .infer import Discrepancy as Discrepancy
from .infer import EstimatorComparison as EstimatorComparison
from .infer import EvidenceBounds as EvidenceBounds
from .infer import Posterior as Posterior
from .infer import Verdict as Verdict
from .infer import compare as compare
from .infer import compare_estimators as compare_estimators
from .infer import diagnose as diagnose
from .infer import energy_distance as energy_distance
from .infer import evidence_bounds as evidence_bounds
from .infer import fit as fit
from .infer import ksd as ksd
from .infer import load as load
from .infer import mmd as mmd
from .infer import resume as resume
from .infer import sample as sample
from .infer import sbc as sbc
from .infer import sinkhorn_distance as sinkhorn_distance
from .infer import sliced_wasserstein as sliced_wasserstein
from .models import Target as Target
from .models import enable_x64 as enable_x64
from .models import from_forward_map as from_forward_map
from .models import from_logdensity as from_logdensity
from .models import from_numpyro as from_numpyro
from .models import from_pyro as from_pyro
from .models import likelihood as likelihood
from .models import marginal as marginal
from .models import normalize as normalize
from .models import register_lowering as register_lowering
from .models.guides import IAF as IAF
from .models.guides import Delta as Delta
from .models.guides import FullRank as FullRank
from .models.guides import Laplace as Laplace
from .models.guides import LowRank as LowRank
from .models.guides import MeanField as MeanField
from .models.guides import Planar as Planar
from .models.guides import Radial as Radial
from .models.guides import RealNVP as RealNVP
from .models.guides import SplineFlow as SplineFlow
from .models.guides import flow_guide as flow_guide
from .models.guides import program_guide as program_guide
from .samplers import ALDI as ALDI
from .samplers import BAOAB as BAOAB
from .samplers import CBO as CBO
from .samplers import CBS as CBS
from .samplers import EKI as EKI
from .samplers import EKS as EKS
from .samplers import HMC as HMC
from .samplers import LAWGD as LAWGD
from .samplers import NUTS as NUTS
from .samplers import PSGLD as PSGLD
from .samplers import SGHMC as SGHMC
from .samplers import SGLD as SGLD
from .samplers import SGNHT as SGNHT
from .samplers import SMC as SMC
from .samplers import SVGD as SVGD
from .samplers import SVMD as SVMD
from .samplers import SVNG as SVNG
from .samplers import SVRG as SVRG
from .samplers import BirthDeath as BirthDeath
from .samplers import CoinKSDD as CoinKSDD
from .samplers import CoinLAWGD as CoinLAWGD
from .samplers import CoinMirroredSVGD as CoinMirroredSVGD
from .samplers import CoinSVGD as CoinSVGD
from .samplers import CoinSVMD as CoinSVMD
from .samplers import ControlVariate as ControlVariate
from .samplers import CyclicalSGLD as CyclicalSGLD
from .samplers import EntropyMCMC as EntropyMCMC
from .samplers import KSDDescent as KSDDescent
from .samplers import MirroredSVGD as MirroredSVGD
from .samplers import MMDFlow as MMDFlow
from .samplers import StructuredSGLD as StructuredSGLD
from .samplers.engine import NonFiniteError as NonFiniteError

if _TYPE_CHECKING:
    from .samplers import interpolants as interpolants
    from .samplers import transport as transport

__version__ = _version("pushforward")

__on_use__ = {"interpolants": ".samplers.interpolants", "transport": ".samplers.transport"}
__getattr__ = _on_use(__name__, __on_use__)
__dir__ = _names_with(__name__, __on_use__)
