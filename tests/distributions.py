"""Are two samples drawn from one distribution? Tests with a known rate of false alarms, for dropout and initialization.

A right program would fail an assertion here with a probability of FALSE_ALARM or less. All seeds are fixed, so it fails
always or never.
"""

from typing import Any

import numpy as np
from scipy import stats

FALSE_ALARM = 1e-6


def assert_same_distribution(ours: Any, theirs: Any) -> None:
    """Samples (N,T,D): every entry's mean and form, and every pair's correlation."""
    a, b = (np.asarray(sample, np.float64).reshape(len(sample), -1) for sample in (ours, theirs))
    constant = b.std(0) == 0
    assert (constant == (a.std(0) == 0)).all(), "an entry is random on one side only"
    assert not constant.all(), "nothing is dropped"
    np.testing.assert_allclose(a[:, constant].mean(0), b[:, constant].mean(0), atol=1e-6)
    # Attention dropout has few outcomes, whose last bits differ between the frameworks: blur them, equally.
    rng = np.random.default_rng(0)
    a, b = (sample[:, ~constant] + rng.normal(0, 1e-3, (len(sample), (~constant).sum())) for sample in (a, b))
    limit = FALSE_ALARM / a.shape[1] ** 2
    p = stats.ttest_ind(a, b, equal_var=False).pvalue.min()
    assert p > limit, f"means differ, p = {p:.1e}"
    p = stats.ks_2samp(a, b).pvalue.min()
    assert p > limit, f"forms differ, p = {p:.1e}"
    products = [np.einsum("ni,nj->nij", z, z) for z in ((x - b.mean(0)) / b.std(0) for x in (a, b))]
    difference = products[0].mean(0) - products[1].mean(0)
    z = np.abs(difference) / np.sqrt((products[0].var(0) + products[1].var(0)) / len(a))
    assert z.max() < stats.norm.isf(limit), f"second moments differ by {z.max():.1f} standard errors"


def assert_normal(sample: np.ndarray, deviation: float, what: str) -> None:
    """N(0, deviation): Kolmogorov and Smirnov for the form, a chi-square for the deviation; for up to 50 tensors."""
    z = sample.ravel().astype(np.float64) / deviation
    form = stats.kstest(z, "norm").pvalue
    spread = 2 * min(stats.chi2.cdf((z**2).sum(), z.size), stats.chi2.sf((z**2).sum(), z.size))
    assert form > FALSE_ALARM / 100 and spread > FALSE_ALARM / 100, f"{what}: p = {form:.1e}, {spread:.1e}"


def assert_uncorrelated(pieces: dict[str, np.ndarray]) -> None:
    """No two of many samples of one length, by name."""
    correlation = np.corrcoef(list(pieces.values()))
    np.fill_diagonal(correlation, 0)
    length = len(next(iter(pieces.values())))
    limit = stats.norm.isf(FALSE_ALARM / len(pieces) ** 2) / np.sqrt(length)
    at = np.unravel_index(np.abs(correlation).argmax(), correlation.shape)
    assert np.abs(correlation).max() < limit, [list(pieces)[i] for i in at]
