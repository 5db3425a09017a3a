"""The metrics against closed forms, hand computation, and two other implementations."""

import itertools

import numpy as np
import pytest

from eval import metrics
from eval.metrics import BLOCK, Moments, frechet_distance, kid, moments, prdc, score


def test_moments_are_mean_and_covariance():
    rng = np.random.default_rng(0)
    for count in (3, 40, 2 * BLOCK + 1):  # fewer rows than columns, more, more than one block
        x = rng.normal(size=(count, 7)) @ rng.normal(size=(7, 7)) + 5
        result = moments(x)
        np.testing.assert_allclose(result.mean, x.mean(axis=0), rtol=1e-12)
        covariance = result.factor.T @ result.factor
        np.testing.assert_allclose(covariance, np.cov(x, rowvar=False), rtol=1e-10, atol=1e-12)
        assert result.factor.shape == (min(count, 7), 7)


def test_diagonal_covariances_have_a_closed_form():
    rng = np.random.default_rng(1)
    m, n = rng.normal(size=(2, 9))
    a, b = rng.uniform(0, 4, size=(2, 9))
    expected = np.square(m - n).sum() + np.square(np.sqrt(a) - np.sqrt(b)).sum()
    result = frechet_distance(Moments(m, np.diag(np.sqrt(a))), Moments(n, np.diag(np.sqrt(b))))
    assert result == pytest.approx(expected, rel=1e-12)


def test_a_set_is_at_zero_from_itself_and_never_below():
    rng = np.random.default_rng(4)
    for count, size in itertools.product((2, 5, 200), (1, 8, 64)):
        x = moments(rng.normal(size=(count, size)) + 10)
        assert 0 <= frechet_distance(x, x) < 1e-11


def test_the_score_is_from_one_to_the_number_of_classes():
    alike = np.tile(np.random.default_rng(0).normal(size=10), (30, 1))
    assert score(np.zeros((30, 10))) == pytest.approx(1, abs=1e-14)
    assert score(alike, splits=3) == pytest.approx(1, abs=1e-14)
    for sure in (50.0, 1e4):  # probabilities that underflow must do no harm
        logits = sure * np.tile(np.eye(7), (4, 1))
        assert score(logits) == pytest.approx(7, rel=1e-12)
        assert score(logits, splits=4) == pytest.approx(7, rel=1e-12)
        assert score(logits[::7]) == pytest.approx(1, rel=1e-12)  # one class only


def test_splits_are_taken_in_order():
    logits = np.random.default_rng(1).normal(size=(11, 5)) * 3
    parts = [score(logits[i * 11 // 3 : (i + 1) * 11 // 3]) for i in range(3)]
    assert score(logits, splits=3) == pytest.approx(np.mean(parts), rel=1e-14)


def test_kid_agrees_with_a_loop_over_pairs_of_unequal_sets(monkeypatch):
    monkeypatch.setattr(metrics, "BLOCK", 4)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 4)), rng.normal(size=(9, 4))

    def kernel(a, b):
        return (a @ b / 4 + 1) ** 3

    within = [
        np.mean([kernel(s[i], s[j]) for i, j in itertools.permutations(range(len(s)), 2)])
        for s in (x, y)
    ]
    between = np.mean([kernel(a, b) for a, b in itertools.product(x, y)])
    assert kid(x, y) == pytest.approx(sum(within) - 2 * between, rel=1e-12)


def test_neighbours_of_hand_made_points():
    """Fakes at 0, 1 and 2 have radius 1; reals at 0, 10, 20, 30 have radius 10."""
    assert prdc(np.arange(4.0)[:, None] * 10, np.arange(3.0)[:, None], k=1) == {
        "precision": 1.0,  # all lie in the ball of 0
        "recall": 1 / 4,  # only the real 0 is within 1 of a fake
        "density": pytest.approx((2 + 2 + 2) / 3),  # 0, 1 and 2 lie in the balls of 0 and of 10
        "coverage": 2 / 4,  # the balls of 0 and of 10 hold fakes, rim included
    }


def test_neighbours_in_blocks_agree_with_plain_loops():
    rng = np.random.default_rng(3)
    real, fake = rng.normal(size=(BLOCK + 50, 2)), rng.normal(0.3, 0.8, (BLOCK + 9, 2))
    k = 4

    def distances(x, y):
        return np.linalg.norm(x[:, None] - y[None], axis=2)

    cross, radii = distances(real, fake), [np.sort(distances(x, x))[:, k] for x in (real, fake)]
    inside = cross <= radii[0][:, None]
    assert prdc(real, fake, k) == {
        "precision": inside.any(axis=0).mean(),
        "recall": (cross <= radii[1][None]).any(axis=1).mean(),
        "density": pytest.approx(inside.sum() / (k * len(fake)), rel=1e-12),
        "coverage": inside.any(axis=1).mean(),
    }
