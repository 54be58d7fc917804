"""Tests whether samples have the expected distribution, with a known rate of false alarms, for dropout and init.

A correct program fails an assertion here with a probability of at most FALSE_ALARM. All seeds are fixed, so it fails
always or never.
"""

from typing import Any

import numpy as np
from scipy import stats

FALSE_ALARM = 1e-6


def assert_same_distribution(ours: Any, theirs: Any) -> None:
    """Compares N random outputs (N,T,D): mean and distribution of each entry, correlation of each pair of entries."""
    a, b = (np.asarray(sample, np.float64).reshape(len(sample), -1) for sample in (ours, theirs))
    constant = b.std(0) == 0
    assert (constant == (a.std(0) == 0)).all(), "an entry is random in one sample and constant in the other"
    assert not constant.all(), "all entries are constant: nothing was dropped"
    np.testing.assert_allclose(a[:, constant].mean(0), b[:, constant].mean(0), atol=1e-6)
    # Attention dropout has few possible outputs, whose last bits differ between the frameworks. Added noise hides that.
    rng = np.random.default_rng(0)
    a, b = a[:, ~constant], b[:, ~constant]
    a, b = a + rng.normal(0, 1e-3, a.shape), b + rng.normal(0, 1e-3, b.shape)
    limit = FALSE_ALARM / a.shape[1] ** 2
    p = stats.ttest_ind(a, b, equal_var=False).pvalue.min()
    assert p > limit, f"means differ, p = {p:.1e}"
    p = stats.ks_2samp(a, b).pvalue.min()
    assert p > limit, f"distributions differ, p = {p:.1e}"
    ours_products, theirs_products = products_of_pairs(a, b), products_of_pairs(b, b)
    difference = ours_products.mean(0) - theirs_products.mean(0)
    z = np.abs(difference) / np.sqrt((ours_products.var(0) + theirs_products.var(0)) / len(a))
    assert z.max() < stats.norm.isf(limit), f"second moments differ by {z.max():.1f} standard errors"


def products_of_pairs(sample: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(N,E,E): the products of all pairs of entries (N,E), standardized by the reference's mean and deviation."""
    z = (sample - reference.mean(0)) / reference.std(0)
    return np.einsum("ni,nj->nij", z, z)


def assert_normal(sample: np.ndarray, deviation: float, what: str) -> None:
    """The sample is from N(0, deviation²): a Kolmogorov-Smirnov test, and a chi-square test of the deviation.

    Both tests together stay within FALSE_ALARM for up to 50 tensors.
    """
    z = sample.ravel().astype(np.float64) / deviation
    p_shape = stats.kstest(z, "norm").pvalue
    squares = (z**2).sum()
    p_deviation = 2 * min(stats.chi2.cdf(squares, z.size), stats.chi2.sf(squares, z.size))
    limit = FALSE_ALARM / 100
    assert p_shape > limit, f"{what} is not normally distributed: p = {p_shape:.1e}"
    assert p_deviation > limit, f"{what} has another standard deviation than {deviation}: p = {p_deviation:.1e}"


def assert_uncorrelated(samples: dict[str, np.ndarray]) -> None:
    """No two of the samples, which have equal lengths, are correlated."""
    names = list(samples)
    correlation = np.abs(np.corrcoef(list(samples.values())))
    np.fill_diagonal(correlation, 0)
    limit = stats.norm.isf(FALSE_ALARM / len(names) ** 2) / np.sqrt(samples[names[0]].size)
    row, column = np.unravel_index(correlation.argmax(), correlation.shape)
    assert correlation.max() < limit, f"{names[row]} and {names[column]} correlate by {correlation.max():.2f}"
