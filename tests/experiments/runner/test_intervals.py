"""Intervals of means of a few values."""

import numpy as np
import pytest

import metajax
from experiments.runner.intervals import of_few


@pytest.mark.parametrize('number', [2, 3, 20])
def test_they_hold_the_mean_in_95_of_100_cases(number):
  drawn = np.random.default_rng(0).normal(size=(number, 20_000))
  covered = np.mean(np.abs(drawn.mean(0)) <= of_few(drawn))
  assert covered == pytest.approx(0.95, abs=0.005)


def test_of_many_they_are_those_of_tests():
  values = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
  usual = metajax.confidence_interval(values)
  np.testing.assert_allclose(of_few(values), usual, rtol=2e-3)


def test_one_value_has_none():
  with pytest.raises(ValueError, match='2 values or more, got 1'):
    of_few(np.zeros((1, 2)))
