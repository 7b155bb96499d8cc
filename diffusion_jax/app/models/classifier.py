"""Classifiers of noisy images, which guide the sampling of other runs."""

from collections.abc import Callable, Iterator, Mapping

import jax
from jax.sharding import Mesh

from diffusion_jax.app.config import kinds
from diffusion_jax.app.model import Guides, Params
from diffusion_jax.app.models.noisy import NoisyModel
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.per_image import PerImage

_NO_IMAGES = (
  'this run is a classifier, which makes no images: sample another run with '
  '--config.sampling.classifier.run=<this one>'
)


class Classifier(NoisyModel):
  """A classifier of noisy images, p(y | x_t)."""

  schema = kinds.CLASSIFIER
  makes_images = False

  def network_facts(self) -> Mapping[str, object]:
    """Returns the facts of the network, which has an output for each class."""
    if self.facts.num_classes < 2:
      raise UserError(
        'config.network=classifier needs images of two or more classes'
      )
    return {'num_classes': self.facts.num_classes}

  def logits(self, params: Params) -> Callable[..., jax.Array]:
    """Returns (x_t, level) -> logits [B, num_classes]."""
    network = self.given_network()
    return lambda xt, level: network.output(params['network'], xt, level, {})

  def generate(
    self, mesh: Mesh, guides: Guides | None = None, trajectory: bool = False
  ) -> PerImage:
    """Raises UserError: a classifier makes no images."""
    raise UserError(_NO_IMAGES)

  def problems(self, mode: str) -> Iterator[str]:
    """Yields a problem for modes that make images."""
    if mode in ('sample', 'edit'):
      yield _NO_IMAGES
    yield from super().problems(mode)
