"""Closed forms and quadratures that tests compare against: plain NumPy and SciPy, nothing of the library."""
