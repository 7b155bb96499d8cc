"""Classifiers of noisy images, which guide the sampling of other runs."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffusion_jax.aliases import Params
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.kinds.diffusion.model import of_network
from diffusion_jax.app.kinds.model import Model
from diffusion_jax.app.kinds.network import ConfiguredNetwork
from diffusion_jax.data.spec import Facts
from diffusion_jax.networks.functional import hidden_and_output
from diffusion_jax.runtime.run_folder import RunFolder


def make(config: Node, run: RunFolder, facts: Facts) -> Model:
  """Makes a classifier of noisy images, p(y | x_t)."""
  noisy = ConfiguredNetwork.of(config, facts)
  model = of_network(noisy, run)
  of_params = functools.partial(features, noisy)
  return dataclasses.replace(model, features=of_params)


def features(
  noisy: ConfiguredNetwork, params: Params
) -> Callable[[jax.Array], dict[str, jax.Array]]:
  """Returns images uint8 [B, H, W, C] -> {'features', 'logits', 'predicted'}.

  The features [B, D] are the hidden layer at the level t = 0.
  """
  level = noisy.schedule(params)(0.0)
  apply = hidden_and_output(noisy.network)
  network = dataclasses.replace(noisy.given(), apply=apply)

  def compute(images):
    x = level.alpha * (images / 127.5 - 1.0)
    both = network.output(params['network'], x, level, {})
    first = both.shape[-1] - noisy.facts.num_classes
    hidden, logits = both[:, :first], both[:, first:]
    predicted = jnp.argmax(logits, axis=-1)
    return {'features': hidden, 'logits': logits, 'predicted': predicted}

  return compute
