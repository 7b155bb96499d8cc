"""Finds configs/base.py, whose values a run's config is compared with."""

import importlib
from typing import Any

from diffusion_jax.build import audit
from diffusion_jax.errors import UserError
from diffusion_jax.runs import run_folder


def load() -> Any:
  """Imports configs.base: that of the working folder, or the installed one."""
  try:
    return importlib.import_module('configs.base')
  except ModuleNotFoundError:
    return importlib.import_module('diffusion_jax.configs.base')


def with_choices_of(config: Any) -> dict:
  """Returns the base config, as JSON gives it, with the choices of `config`.

  So that defaults which come with a choice, such as those of a network, are no
  differences. Choices themselves are those of the base config.
  """
  base = load().get_config()
  chosen = load().get_config()
  for field in audit.CHOICES:
    section, name = field.split('.')
    chosen[section][name] = config[section][name]
  try:
    found = run_folder.plain(chosen)
  except (UserError, TypeError):  # a part of the user's that is not there now
    return run_folder.plain(base)
  plain = run_folder.plain(base)
  for field in audit.CHOICES:
    section, name = field.split('.')
    found[section][name] = plain[section][name]
  return found
