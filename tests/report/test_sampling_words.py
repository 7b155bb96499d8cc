"""How samples are drawn, in words."""

import pytest

from diffusion_jax.report import sampling_words

STEPS = {'name': 'steps', 'number': 10, 'spacing': 'uniform'}


@pytest.mark.parametrize(
  'section, words',
  [
    ({'sampler': {'name': 'ddim', 'eta': 0.0}, 'grid': STEPS}, ['ddim eta=0', '10 steps']),
    ({'grid': STEPS | {'number': 1, 'spacing': 'logsnr'}}, ['1 logsnr step']),
    ({'grid': {'name': 'respaced', 'steps': 50}}, ['respaced 50']),
    ({'grid': {'name': 'mine:grid', 'power': 2.0}}, ['mine:grid power=2']),
    ({'guidance': {'name': 'classifier_free', 'scale': 2.5}}, ['classifier_free 2.5']),
    ({'guidance': {'name': 'run', 'scale': 2.0, 'run': 'runs/a, sum'}}, ['guidance 2 run=runs/a']),
    ({'bound': {'name': 'auto'}, 'top_p': 1.0, 'seed': 3, 'num_samples': 8}, []),
    ({'bound': None, 'top_p': 0.9, 'stochastic': True}, ['bound none', 'top_p 0.9', 'stochastic']),
  ],
)
def test_a_section_in_words(section, words):
  assert sampling_words.in_words(section, {'seed', 'num_samples'}) == words
