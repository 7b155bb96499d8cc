"""Paths of this machine and addresses are told apart."""

import pwd
from types import SimpleNamespace

import jax
import pytest

from diffusion_jax import paths
from diffusion_jax.app.config import trust
from diffusion_jax.runtime import compiling
from diffusion_jax.runtime.run_folder import RunFolder


def test_a_container_without_a_home(tmp_path, monkeypatch, capsys):
  """HOME is not set, and the number of the user has no name."""
  for name in ('HOME', 'XDG_CACHE_HOME'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(pwd, 'getpwuid', {}.__getitem__)
  with pytest.raises(OSError, match='HOME and XDG_CACHE_HOME are not set'):
    paths.cache_folder()
  with pytest.raises(ValueError, match='~/a: no home folder is known: write'):
    paths.expanded('~/a')
  monkeypatch.setattr(trust, '_allowed', {'/a'})
  trust.remember(
    RunFolder.at(tmp_path), SimpleNamespace(paths_read=lambda *uses: [('data.path', '/a')])
  )
  trust.recall(RunFolder.at(tmp_path))
  before = jax.config.values['jax_compilation_cache_dir']
  jax.config.update('jax_compilation_cache_dir', None)
  try:
    compiling.keep_compilations(None)
  finally:
    jax.config.update('jax_compilation_cache_dir', before)
  assert 'are not kept in ~/.cache (HOME and XDG_CACHE_HOME are not' in capsys.readouterr().err
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  assert paths.cache_folder() == tmp_path / 'diffusion_jax'


@pytest.mark.parametrize(
  'path, message',
  [
    ('gs:/bucket/run', 'gs:/bucket/run: write gs://bucket/run, with two slashes'),
    ('az://bucket/run', 'az://bucket/run is an address, and only folders of this machine'),
  ],
)
def test_addresses_are_no_folders(path, message):
  with pytest.raises(ValueError, match=message):
    paths.expanded(path, written=True)
  assert paths.is_address('gs://bucket/run') and not paths.is_address('gs:/a')
  assert paths.expanded('gs://bucket/run') == 'gs://bucket/run'
