"""Ensembles that interact through their moments: Langevin systems, consensus, Kalman methods."""

from ._aldi import ALDI as ALDI
