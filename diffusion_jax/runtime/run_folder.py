"""The folder of a run, which the doors of the program make once.

The doors are the command line, `dj.open_run`, and the fields of a config that name runs.
"""

import dataclasses
from pathlib import Path
from typing import Self

from diffusion_jax.runtime import buckets
from diffusion_jax.runtime.files import make_folder


@dataclasses.dataclass(frozen=True)
class RunFolder:
  """A run's folder, which may not exist yet.

  name: the folder or the address in a bucket, as messages say it; path: its files on this machine,
  for a bucket in the twin; written: whether results may be written into it.
  """

  name: str
  path: Path
  written: bool = True

  @classmethod
  def at(cls, place: str | Path, written: bool = True) -> Self:
    """Returns the folder at a path or an address, whose run is copied down first.

    Raises UserError for a bucket that cannot be read.
    """
    path = buckets.folder(place)
    return cls(buckets.named(place), path, written)

  def __str__(self) -> str:
    return self.name

  def make(self, below: str | Path = '') -> Path:
    """Makes the folder, and the path `below` in it; see `make_folder`."""
    assert self.written, f'{self} is a run that is read'
    return make_folder(self.path, below)

  @property
  def config(self) -> Path:
    """The file that makes the folder a run."""
    return self.path / 'config.json'

  @property
  def metrics(self) -> Path:
    """The curves of the training."""
    return self.path / 'metrics.jsonl'

  @property
  def samples(self) -> Path:
    """The folder of previews and of --mode=sample."""
    return self.path / 'samples'

  @property
  def evaluation(self) -> Path:
    """The folder of the results of --mode=evaluate."""
    return self.path / 'evaluation'

  @property
  def simulations(self) -> Path:
    """The folder of simulations that the run keeps."""
    return self.path / 'simulations'

  @property
  def latent(self) -> Path:
    """The record of the run's autoencoder, which completes its copy."""
    return self.path / 'latent.json'

  @property
  def autoencoder(self) -> 'RunFolder':
    """The copy of the autoencoder, a run folder itself."""
    return RunFolder(f'{self}/autoencoder', self.path / 'autoencoder', self.written)
