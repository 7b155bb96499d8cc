"""What problems and certificates refuse: one row for each rule, as called."""

import dataclasses

import numpy as np

from tests import refusals
from tests.testing.test_certify import GAUSSIAN, IMAGE, heun, judged

WRONG = [
  (lambda: IMAGE.denoise(np.zeros((3, 4, 4)), 1.0), 'x is [3, 4, 4]: it must be [N, 1, 4, 4]'),
  (lambda: dataclasses.replace(GAUSSIAN, sigma_max=0.001), 'sigma_max=0.001: they must be above 0'),
  (lambda: judged(heun, GAUSSIAN, (8,)), 'two or more, ascending'),
  (lambda: judged(heun, GAUSSIAN, (16, 8)), 'two or more, ascending'),
  (lambda: judged(heun, GAUSSIAN, (0, 8)), 'two or more, ascending'),
  (lambda: judged(heun, GAUSSIAN, draws=99), 'draws=99: the law needs 100 or more'),
  (
    lambda: judged(lambda problem, x, *_: x[:, :1], GAUSSIAN, draws=100),
    'returned [100, 1]: it must be [100, 2]',
  ),
]


test_other_arguments_are_refused = refusals.each({ValueError: WRONG})
