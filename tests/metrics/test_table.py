import sys

import pytest

from diffusion_jax.metrics import table


@pytest.mark.parametrize(
  'typed, name, features, shown',
  [
    ('fid', 'fd', 'inception', 'fid'),
    ('fd', 'fd', '', 'fd'),
    ('fd_dinov2', 'fd', 'dinov2', 'fd_dinov2'),
    ('sfid', 'sfd', 'inception', 'sfid'),
    ('kid_two_levels', 'kid', 'two_levels', 'kid_two_levels'),
    ('independent_pixels', 'independent_pixels', '', 'independent_pixels'),
    ('fd_x', 'fd_x', '', 'fd_x'),
    ('my:fd_digits', 'my:fd_digits', '', 'my:fd_digits'),
  ],
)
def test_names_say_the_metric_and_the_features(typed, name, features, shown):
  rows = {**table.METRICS, **table.OF_OTHERS}
  assert table.split_name(typed, rows) == (name, features)
  assert table.score_name(name, features) == shown


def test_a_metric_of_a_module_is_found_by_its_name(tmp_path, monkeypatch):
  (tmp_path / 'my_metrics.py').write_text('def two(k=2): return k\n')
  monkeypatch.syspath_prepend(tmp_path)
  assert table.make('my_metrics:two', 10) == 2
  monkeypatch.delitem(sys.modules, 'my_metrics')
  for name, message in (
    ('my_metrics:three', "no attribute 'three'"),
    ('none:three', "No module named 'none'"),
    ('fid2', "metric 'fid2' is not one of fd, sfd"),
  ):
    with pytest.raises(ValueError, match=message):
      table.make(name, 10)
