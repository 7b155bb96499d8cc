"""Law: each flag that a mode gets is read, kept for another mode, or refused.

FLAGS has a field or a name of every section and every field of no section, with a value that no
config of here has. Planted faults: `Mode.check_given` that skips names without a dot;
`Mode.is_read` with 'latent' read by all; `cli.start` that asks modes of a run only.
"""

import pytest
from absl.testing import flagsaver

from diffusion_jax.app import cli
from diffusion_jax.app.kinds import store
from diffusion_jax.app.modes import MODES
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import CONFIGS, read, refused, stored_run
from tests.app.fields import typed

FLAGS = typed("""
  seed=7 compilation_cache=x matmul_precision=highest
  data=shapes data.validation_fraction=0.5 data.one_scale=True
  network=dit network.dtype=bfloat16 network.remat=True
  schedule=karras parametrization=x0 noise_input=logsnr objective=hybrid
  optimizer.learning_rate=0.5 conditioning.dropout=0.5 training.num_steps=7
  training.machine.compile=fast training.log_every=7 latent.path=x
  sampling.num_steps=7 sampling=x evaluation.num_images=7 report.trajectory=False
  edit=restore edit.num_samples=7 average.sigma_rel=0.1 band.trainings=3 convert.out=x serve.port=7
""")
USED = {'sampling.num_steps', 'compilation_cache', 'matmul_precision', 'training.machine.compile'}
USED |= {'data', 'data.validation_fraction', 'network.dtype', 'network.remat'}
EDITED = {'edit', 'edit.num_samples'}
# All but what is written or read by modes that do not keep it.
KEPT = {*FLAGS} - {
  *('sampling', 'average.sigma_rel', 'band.trainings', 'convert.out', 'report.trajectory')
}
# What each mode takes, of a run but for a training, an encoding, and weights to convert.
TAKES = {
  'train': KEPT | {'report.trajectory'},
  'band': KEPT | {'band.trainings', 'report.trajectory'},
  'encode': KEPT | {'report.trajectory'},
  'convert': KEPT | {'convert.out'},
  'sample': USED,
  'edit': USED | EDITED,
  'evaluate': USED | {'evaluation.num_images'},
  'explain': USED | {'evaluation.num_images'},
  'report': USED | {'report.trajectory'},
  'serve': USED | {'serve.port'},
  'average': {'compilation_cache', 'matmul_precision', 'average.sigma_rel'},
}
# The field of a kind that the digits lack.
OF_ANOTHER = {'latent.path': 'digits_latent'}


@pytest.fixture(autouse=True, scope='module')
def parsed():
  """Lets `cli.Command` read the flags of the program."""
  with flagsaver.flagsaver():
    cli.flags.FLAGS(['launch.py'])
    yield


def sections(name):
  config = read(name)
  return {*config} - {'facts', 'decoding'}


def test_every_section_has_a_flag():
  tops = {path.partition('.')[0] for path in FLAGS}
  assert tops == sections('digits') | sections('digits_latent')
  assert {*TAKES} == {*MODES}


@pytest.mark.parametrize('path', FLAGS)
@pytest.mark.parametrize('mode', MODES)
def test_a_flag_is_read_or_refused(mode, path, tmp_path):
  name = OF_ANOTHER.get(path, 'digits')
  run = stored_run(tmp_path / 'run', read(name))
  source = run if MODES[mode].uses_a_run else CONFIGS / f'{name}.py'

  def start(flags):
    command = cli.Command(str(source), '', flags)
    config = command.config(mode)
    MODES[mode].check_given(config, RunFolder.at(run), {path for path, _ in flags})
    return config

  flags = [(path, FLAGS[path])]
  if path not in TAKES[mode]:
    refused('', start, flags)
    return
  changed = start(flags).to_dict()
  assert changed != start([]).to_dict()


@pytest.mark.parametrize('mode', [name for name, mode in MODES.items() if mode.uses_a_run])
def test_a_flag_with_the_value_of_the_run_is_taken(mode, tmp_path):
  run = stored_run(tmp_path / 'run', store.with_flags(read('digits'), [('edit', 'restore')]))
  command = cli.Command(str(run), '', [('edit', 'restore')])
  MODES[mode].check_given(command.config(mode), RunFolder.at(run), ['edit'])
  command = cli.Command(str(run), '', [('edit', 'sdedit')])
  config = command.config(mode)
  if mode == 'edit':
    MODES[mode].check_given(config, RunFolder.at(run), ['edit'])
    return
  with pytest.raises(UserError, match=f'config.edit=sdedit has no effect with --mode={mode}'):
    MODES[mode].check_given(config, RunFolder.at(run), ['edit'])
