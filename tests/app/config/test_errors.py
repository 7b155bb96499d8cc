"""Errors in a config name the field and the nearest word."""

import pytest

from diffusion_jax.app.config.errors import check_one_of, from_config, near, no_field
from diffusion_jax.errors import UserError
from tests.app.conftest import refused


def test_near_names():
  assert near('lineer', ['linear', 'cosine']) == " (did you mean 'linear'?)"
  assert near('zzz', ['linear']) == ''
  refused(r"x='b' is not one of a, 1", check_one_of, ['a', 1], 'x', 'b')
  check_one_of(['a'], 'x', 'a')
  everywhere = ['a.size', 'b.size', 'seed']
  hint = r"\(did you mean '[ab].size' or '[ab].size'\?\)"
  with pytest.raises(UserError, match=hint):
    raise no_field('size', ['seed'], everywhere=everywhere)


@pytest.mark.parametrize('error', [TypeError('a'), OSError('a'), ValueError('a')])
def test_an_error_of_a_constructor_names_its_section(error):
  with pytest.raises(UserError, match='^config.b: a'), from_config('b'):
    raise error
