import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.runs import measures
from diffusion_jax.runs.measures import Measure
from tests.programs.conftest import smoke


@pytest.mark.parametrize(
  'metric, measure, shown',
  [
    ('fid', Measure('fd', 'inception'), 'fid'),
    ('fd', Measure('fd', 'digits'), 'fd_digits'),
    ('fd_dinov2', Measure('fd', 'dinov2'), 'fd_dinov2'),
    ('sfid', Measure('sfd', 'inception'), 'sfid'),
    ('kid_inception', Measure('kid', 'inception'), 'kid_inception'),
    ('accuracy', Measure('accuracy', 'digits'), 'accuracy'),
  ],
)
def test_names_say_the_measure_and_the_features(metric, measure, shown):
  assert measures.find(metric, 'digits') == measure
  assert measures.row_name(measure.name, measure.features) == shown


@pytest.mark.parametrize('metric', ['elbo', 'fid2', 'fd_x', 'independent_p'])
def test_other_names_are_no_measures(metric):
  assert measures.find(metric, 'digits') is None


def test_more_is_better_of_some():
  config = smoke(**{
    'evaluation.metrics': ('fid,pr_digits,is,elbo',),
    'evaluation.features': 'digits',
  })  # fmt: skip
  assert measures.signs(config) == {
    'fid': 1.0,
    'precision_digits': -1.0,
    'recall_digits': -1.0,
    'is_digits': -1.0,
  }


def test_unknown_features_are_one_line():
  with pytest.raises(UserError, match="features='x' is not one of inception"):
    measures.chosen(smoke(**{'evaluation.features': 'x'}))
