"""The loss that chooses the best checkpoint is of the validation part, if there is one."""

from diffusion_jax.app.inputs import criterion
from tests.app.conftest import smoke


def test_a_validation_part_has_the_loss_that_decides():
  for fraction, split in ((0.0, 'test'), (0.1, 'validation')):
    config = smoke(**{'data.validation_fraction': fraction})
    assert criterion.held_out(config) == split
    assert criterion.best_by(config) == criterion.held_out_loss(config) == f'{split}_loss'
    config = smoke(**{'training.checkpoints.best.by': 'fid', 'data.validation_fraction': fraction})
    assert criterion.best_by(config) == 'fid'
