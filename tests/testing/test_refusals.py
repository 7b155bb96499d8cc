"""What problems, certificates and exercises refuse: one row for each rule, as called."""

import dataclasses

import numpy as np
import pytest

from diffusion_jax.testing import exercises
from tests import refusals
from tests.testing.test_certify import GAUSSIAN, IMAGE, heun, judged

NONE = "no exercise has the name 'postrior_mean' (did you mean 'posterior_mean'?)"
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
  (lambda: exercises.ask('postrior_mean'), f'{NONE}'),
  (lambda: exercises.inputs('postrior_mean'), f'{NONE}'),
  (lambda: exercises.check('postrior_mean', heun), f'{NONE}'),
]


@pytest.mark.parametrize('error, call, message', [*refusals.rows(ValueError, WRONG)])
def test_other_arguments_are_refused(error, call, message):
  with refusals.one_line(error=error, match=message):
    call()
