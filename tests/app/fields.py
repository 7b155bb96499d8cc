"""Fields of a config by their paths, as `smoke` and `trial` take them."""


def within(section, choice=None, /, **fields):
  """Returns the fields of a section by their paths, and its choice.

  a__b stands for the field b of the section a within it.
  """
  paths = {f'{section}.{name.replace("__", ".")}': value for name, value in fields.items()}
  return paths if choice is None else {section: choice} | paths


def typed(text):
  """Returns fields by their paths as they are typed: 'edit=sdedit training.num_steps=3'."""
  return dict(field.split('=', 1) for field in text.split())
