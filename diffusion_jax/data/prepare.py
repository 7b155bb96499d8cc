"""Downloads and prepares CIFAR-10 and MNIST once, without TensorFlow.

  python -m diffusion_jax.data.prepare cifar10 [DATA_DIR]

prepares a set ahead of a run, for example on a login node, and prints its
folder. DATA_DIR is tfds' own folder by default ($TFDS_DATA_DIR or
~/tensorflow_datasets).
"""

import argparse
import contextlib
import io
import json
import logging
import os
import sys
from pathlib import Path

from diffusion_jax.errors import naming
from diffusion_jax.paths import is_address

NAMES = ('cifar10', 'mnist')


def default_data_dir(data_dir: str | Path = '') -> Path:
  """Returns data_dir, or the folder of tfds if that is empty."""
  from tensorflow_datasets.core import constants

  return Path(os.path.expanduser(data_dir or constants.get_default_data_dir()))


def prepare(name: str, data_dir: str | Path = '') -> Path:
  """Returns the folder of a set of NAMES, and prepares it if necessary.

  Tries, in this order: a set that this function prepared, one that tfds
  prepared as array_record, the official archives in DATA_DIR/downloads/manual,
  a download. Raises ValueError or OSError with one line that says what to do.
  """
  if is_address(data_dir):
    raise ValueError(f'{data_dir}: {name} is prepared in a folder of this machine, or data=tfds')
  builder_class, top = _builder(name), default_data_dir(data_dir)
  folder = top / builder_class.name / str(builder_class.VERSION)
  if folder.exists():
    check_prepared(folder)
    return folder
  by_tfds, remark = prepared_by_tfds(name, top), ''
  if by_tfds is not None:
    try:
      check_prepared(by_tfds)
      return by_tfds
    except ValueError as error:
      remark = f' ({error})'
  _check_archives(name, builder_class, top, remark)
  print(f'preparing {name} in {folder}: a minute or so, once', flush=True)
  try:
    _download_and_prepare(name, builder_class(data_dir=top))
  except OSError:
    # Another process may have prepared the folder in the meantime.
    if not folder.exists():
      raise
  check_prepared(folder)
  return folder


def is_here(name: str, data_dir: str | Path = '') -> bool:
  """Returns whether `prepare` needs no network for a set of NAMES."""
  if is_address(data_dir):
    return True  # `prepare` refuses it
  builder_class, top = _builder(name), default_data_dir(data_dir)
  if (top / builder_class.name / str(builder_class.VERSION)).exists():
    return True
  return prepared_by_tfds(name, top) is not None or not _missing(builder_class, top)


def _builder(name):
  from diffusion_jax.data import builders

  return {'cifar10': builders.CIFAR10Arrays, 'mnist': builders.MNISTArrays}[name]


def _download_and_prepare(name, builder):
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core.download import download_manager

  tfds.disable_progress_bar()
  config = tfds.download.DownloadConfig(try_download_gcs=False, force_checksums_validation=True)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      builder.download_and_prepare(download_config=config, file_format='array_record')
  except (tfds.download.DownloadError, download_manager.NonMatchingChecksumError) as error:
    reason = ' '.join(str(error).split())
    raise OSError(f'the download of {name} failed, try again: {reason}') from None


def prepared_by_tfds(name: str, data_dir: str | Path = '') -> Path | None:
  """Returns the folder of the tfds set `name[/config][:version]`, or None.

  Raises ValueError for another form of name, and for a damaged set.
  """
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core import naming as tfds_names, read_only_builder

  top = str(default_data_dir(data_dir))
  try:
    parsed, options = tfds_names.parse_builder_name_kwargs(name)
  except ValueError:
    options = {'none': name}
  if {*options} - {'config', 'version'}:  # tfds reads mnist/data_dir=x as an argument
    raise ValueError(f'{name!r} is not name[/config][:version]')
  check_features(Path(top) / parsed.name)
  with _described(f'{name} in {top}'):
    try:
      builder = read_only_builder.builder_from_files(name, data_dir=top)
    except tfds.core.DatasetNotFoundError:
      return None
  return Path(builder.data_dir)


def check_prepared(folder: Path) -> None:
  """Raises ValueError unless `folder` is a complete array_record set."""
  import tensorflow_datasets as tfds

  broken = ValueError(f'{folder} is incomplete: delete it and start again')
  for name in ('dataset_info.json', 'features.json'):
    if not (folder / name).is_file():
      raise broken
  check_features(folder)
  with _described(folder):
    info = tfds.builder_from_directory(folder).info
    files = [path for split in info.splits.values() for path in split.filepaths]
  file_format = info.file_format and info.file_format.value
  if file_format != 'array_record':
    raise ValueError(
      f'{folder} is stored as {file_format}, which is not read '
      'without TensorFlow: delete it and prepare it again with '
      '--file_format=array_record'
    )
  if not all(Path(path).is_file() for path in files):
    raise broken


def check_features(folder: Path) -> None:
  """Raises ValueError for a features.json that names classes outside of tfds.

  tfds imports the classes in this file, which runs their code, and the set may
  come from anybody.
  """
  for path in folder.rglob('features.json'):
    try:
      found = json.loads(path.read_text())
    except (OSError, ValueError):
      continue  # tfds itself raises an error for such a file
    for name in _classes(found):
      if '.' in name and not name.startswith('tensorflow_datasets.'):
        raise ValueError(
          f'{path} names {name}, which tfds would import: only features of tfds are read'
        )


def _classes(tree):
  # Yields the names of Python classes in a features.json, of either format.
  fields = 'type', 'pythonClassName', 'python_class_name'
  for name, value in tree.items() if isinstance(tree, dict) else ():
    if isinstance(value, str) and name in fields:
      yield value
    yield from _classes(value)


def _described(place):
  # tfds raises the errors of its JSON readers for a damaged file.
  files = '(dataset_info.json or features.json)'
  return naming(f'{place} is damaged {files}: delete it and prepare it again')


def _missing(builder_class, top):
  # Returns the addresses of the archives that are neither downloaded nor put there.
  from tensorflow_datasets.core.download import checksums, resource

  missing = []
  for url in builder_class.URLS:
    file_name = resource.get_dl_fname(url, checksums.get_all_url_infos()[url].checksum)
    cached = top / 'downloads' / builder_class.name / file_name
    given = top / 'downloads' / 'manual' / url.rpartition('/')[-1]
    if not given.is_file() and not resource.is_locally_cached(cached):
      missing.append(url)
  return missing


def _check_archives(name, builder_class, top, remark):
  # Finds in seconds, where tfds needs minutes, that an archive is damaged, or
  # that it is missing and cannot be downloaded.
  import requests
  from tensorflow_datasets.core.download import checksums

  manual = top / 'downloads' / 'manual'
  for url in builder_class.URLS:
    expected = checksums.get_all_url_infos()[url]
    given = manual / url.rpartition('/')[-1]
    if given.is_file() and (found := checksums.compute_url_info(given)) != expected:
      raise ValueError(
        f'{given} is damaged; replace or delete it: expected '
        f'{int(expected.size):,} bytes with sha256 {expected.checksum}, got '
        f'{int(found.size):,} with {found.checksum}'
      )
  missing = _missing(builder_class, top)
  if not missing:
    return
  try:
    answer = requests.head(missing[0], timeout=5, allow_redirects=True)
    answer.raise_for_status()
  except requests.RequestException as error:
    names = ', '.join(url.rpartition('/')[-1] for url in missing)
    raise FileNotFoundError(
      f'{name} is not in {top}{remark} and cannot be downloaded from here '
      f'({type(error).__name__}). Put {names} of '
      f'{missing[0].rpartition("/")[0]} into {manual}; or run `python -m '
      f'diffusion_jax.data.prepare {name} {top}` with a network, and '
      f'copy {top / builder_class.name}'
    ) from None


def main(arguments: list[str]) -> None:
  """Prepares the set that the command line names; errors exit with 2."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('name', choices=NAMES)
  parser.add_argument('data_dir', nargs='?', default='')
  options = parser.parse_args(arguments)
  # tfds logs much.
  logging.getLogger('absl').setLevel(logging.ERROR)
  try:
    print(prepare(options.name, options.data_dir))
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)


if __name__ == '__main__':
  main(sys.argv[1:])
