"""Implements --mode=band: trains with several seeds, to say where a further loss is expected."""

from diffusion_jax.app.config import folder
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.inputs.datasets import held_out
from diffusion_jax.app.kinds import store
from diffusion_jax.app.run import bands
from diffusion_jax.app.train import mode as training
from diffusion_jax.errors import UserError
from diffusion_jax.runtime import run_folder
from diffusion_jax.runtime.files import write_summed
from diffusion_jax.runtime.run_folder import RunFolder


def main(config: Node, workdir: RunFolder) -> None:
  """Trains in <workdir>/<seed>, each a run of its own, and writes <workdir>/band.json.

  A training that was interrupted continues, and one that is finished is read. Raises UserError
  for one that is finished and would be longer now.
  """
  folder.check_no_run(workdir, '--workdir')
  if held_out(config) == 'validation':
    raise UserError(
      f'config.data.validation_fraction={config.data.validation_fraction}: the seed chooses the '
      'validation examples, so trainings of a band would be measured on different ones: set it to 0'
    )
  seeds, runs = range(config.seed, config.seed + config.band.trainings), []
  every = [store.with_fields(config, {'seed': seed, 'training.band': ''}) for seed in seeds]
  for one in every:
    runs.append(RunFolder(f'{workdir}/{one.seed}', workdir / str(one.seed), workdir.written))
    bands.check_not_continued(runs[-1], one.training.num_steps)
  for i, (one, run) in enumerate(zip(every, runs, strict=True), 1):
    print(f'training {i} of {len(every)}: seed {one.seed}')
    training.main(one, run)
  with run_folder.hold(workdir.make(), bands.FILE):
    path = workdir / bands.FILE
    write_summed(path, bands.content_of(runs))
  print(f'wrote {path}: --config.training.band={path} compares a training with it')
