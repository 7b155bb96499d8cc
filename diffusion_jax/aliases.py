"""Names of types that Python cannot express more precisely."""

from collections.abc import Mapping
from typing import Any

PyTree = Any  # nested tuples, dicts and dataclasses of arrays
Params = PyTree  # the parameters of a network
Tree = Mapping[str, Any]  # nested dicts, such as a config's
NamedParams = Tree  # a tree of arrays, or of their shapes
Json = dict[str, Any]  # an object of a JSON file, or a tree like it

# The `networks.fused.Layout` of each layer whose path ends in these letters; the first one counts.
Fused = Mapping[str, tuple[tuple[int, ...], int]]
