"""DiTTransformer2DModel of diffusers as our `DiT`, and back.

diffusers has a copy of the embedding of noise and label in every block, and
separate queries, keys and values. Our network has one embedding, one product
for the three, and all blocks in one array.
"""

import re
from collections.abc import Sequence
from types import SimpleNamespace

import jax
import numpy as np
from flax import traverse_util

from diffusion_jax.aliases import Json, PyTree
from diffusion_jax.interop import diffusers_options as theirs, names, options
from diffusion_jax.interop.names import Params, Tensors, require
from diffusion_jax.networks.inputs import Inputs
from diffusion_jax.networks.transformer import DiT

CLASS = 'DiTTransformer2DModel'
# The options of the class with their defaults; config.json may omit some.
OPTIONS = options.of_text("""
  num_attention_heads=16 attention_head_dim=72 in_channels=4 out_channels=None num_layers=28
  dropout=0.0 norm_num_groups=32 attention_bias=True sample_size=32 patch_size=2
  activation_fn=gelu-approximate num_embeds_ada_norm=1000 upcast_attention=False
  norm_type=ada_norm_zero norm_elementwise_affine=False norm_eps=1e-5
""")
# Further options of Transformer2DModel, the class in DiT's files before
# diffusers 0.29; they must have their defaults.
OLDER = options.of_text("""
  attention_type=default cross_attention_dim=None double_self_attention=False
  num_vector_embeds=None only_cross_attention=False use_linear_projection=False
""")
NORM_EPS = 1e-6  # the epsilon of our norms, and of DiT's release
# Fields of `DiT`, with the option for each.
FIELDS = options.of_text("""
  num_blocks=num_layers num_heads=num_attention_heads patch_size=patch_size dropout=dropout
""")

_BLOCK, _EMBEDDINGS = 'transformer_blocks.{}', 'norm1.emb'
# the embeddings of blocks after the first
_COPY = re.compile(r'(transformer_blocks\.)([1-9]\d*)(\.norm1\.emb\..*)')
_POSITIONS = 'pos_embed.pos_embed'  # a constant that older files hold
_STACK = 'blocks_'  # and the first block of a stack of equal blocks
_QKV = 'query', 'key', 'value'
_EMB = f'{_BLOCK.format(0)}.{_EMBEDDINGS}'
LAYERS = names.table(
  """
  noise_dense_2          transformer_blocks.0.norm1.emb.timestep_embedder.linear_2
  label_embedding/table  transformer_blocks.0.norm1.emb.class_embedder.embedding_table
  block_{i}/modulation   transformer_blocks.{i}.norm1.linear
  block_{i}/query        transformer_blocks.{i}.attn1.to_q
  block_{i}/key          transformer_blocks.{i}.attn1.to_k
  block_{i}/value        transformer_blocks.{i}.attn1.to_v
  block_{i}/proj         transformer_blocks.{i}.attn1.to_out.0
  block_{i}/mlp_in       transformer_blocks.{i}.ff.net.0.proj
  block_{i}/mlp_out      transformer_blocks.{i}.ff.net.2
  modulation_out         proj_out_1
  patch_out              proj_out_2
  """
)


def read_config(
  config: options.Options, noise_embedding: str | None
) -> tuple[DiT, Json, SimpleNamespace]:
  """Returns the network of a config.json, its fields, and all options."""
  c = theirs.complete(CLASS, config, {**OPTIONS, **OLDER}, FIELDS, _allowed)
  fields = options.fields_of(c, FIELDS) | {
    'channels': c.num_attention_heads * c.attention_head_dim,
    'dropout': float(c.dropout),
    'noise_embedding': noise_embedding or 'ho',
  }
  network = DiT(
    **fields,
    out_channels=c.out_channels or c.in_channels,
    inputs=Inputs(num_classes=c.num_embeds_ada_norm, null_class=True),
  )
  return network, fields, c


def _allowed(c):
  return {name: (value,) for name, value in OLDER.items()} | {
    'attention_bias': (True,),
    'activation_fn': ('gelu-approximate',),
    'norm_type': ('ada_norm_zero',),
    'norm_elementwise_affine': (False,),
    'norm_eps': (1e-6, 1e-5),
    'out_channels': (None, c.in_channels, 2 * c.in_channels),
    'num_embeds_ada_norm': '' if c.num_embeds_ada_norm else 'it has no classes',
  }


def write_config(network: DiT, shape: Sequence[int]) -> options.Options:
  """Returns the config.json of a DiTTransformer2DModel.

  shape: of the images or latents. Raises ValueError for fields without a
  counterpart.
  """
  height, width, channels = shape
  values = vars(network) | vars(network.inputs) | {'height': height}
  options.check(
    'our DiT',
    values,
    {
      'noise_embedding': ('ho',),
      'positions': ('sincos',),
      'norm': ('layer',),
      'qk_norm': (False,),
      'mlp': ('gelu',),
      'bottleneck': (0,),
      'class_tokens': (0,),
      'registers': (0,),
      'value_residual': (False,),
      'dropout_blocks': ('all',),
      **theirs.NO_INPUTS,
      'num_classes': '' if network.inputs.num_classes else 'it has classes',
      'null_class': (True,),
      'height': (width,),
    },
    f'in {CLASS}',
  )
  return {**OPTIONS, **options.options_of(network, FIELDS)} | {
    '_class_name': CLASS,
    'attention_head_dim': network.channels // network.num_heads,
    'in_channels': channels,
    'out_channels': network.out_channels,
    'sample_size': height,
    'num_embeds_ada_norm': network.inputs.num_classes,
    'norm_eps': NORM_EPS,
  }


def read(network: DiT, tensors: Tensors, shapes: Params) -> Params:
  """Returns the parameters of a `DiT`, of the shapes of the tree `shapes`.

  Raises ValueError as `names.read`, and if the embeddings of the blocks differ.
  """
  apart = jax.eval_shape(separate, shapes)
  copies = [name for name in tensors if _COPY.fullmatch(name)]
  params = names.read(_entries(network, apart), tensors, apart, {*copies, _POSITIONS}.__contains__)
  for name in copies:
    first = _COPY.sub(r'\g<1>0\g<3>', name)
    require(
      np.array_equal(tensors[name], tensors[first]),
      f'{name} differs from {first}: our network has one embedding of noise '
      'and label for all blocks',
    )
  return join(params)


def write(network: DiT, params: Params, rule: names.NameRule | None = None) -> Tensors:
  """Returns the tensors of a DiTTransformer2DModel; rule: see `names.write`."""
  apart = separate(params)
  tensors = names.write(_entries(network, apart), apart, rule)
  first = f'{_EMB}.'
  copies = {
    name.replace(first, f'{_BLOCK.format(i)}.{_EMBEDDINGS}.'): array
    for name, array in tensors.items()
    if name.startswith(first)
    for i in range(1, network.num_blocks)
  }
  return tensors | copies


def separate(params: Params) -> Params:
  """Returns parameters with a branch for each block, and q, k and v apart."""
  apart: dict[tuple, PyTree] = {}
  leaves: dict[tuple, PyTree] = dict(traverse_util.flatten_dict(dict(params)))
  for path, leaf in leaves.items():
    if not path[0].startswith(_STACK):
      apart[path] = leaf
      continue
    first = int(path[0].removeprefix(_STACK))
    for i in range(len(leaf)):
      block = f'block_{first + i}'
      if path[1] == 'qkv':
        width = leaf.shape[-1] // 3
        for k, name in enumerate(_QKV):
          apart[block, name, *path[2:]] = leaf[i][..., k * width : (k + 1) * width]
      else:
        apart[block, *path[1:]] = leaf[i]
  return traverse_util.unflatten_dict(apart)


def shared_by_qkv(down: Params) -> Params:
  """Returns the matrices A of adapters, with one for each of q, k and v."""

  def shared(blocks):
    return {**blocks, 'qkv': jax.tree.map(lambda a: np.tile(a, 3), blocks['qkv'])}

  return {n: shared(x) if n.startswith(_STACK) else x for n, x in down.items()}


def join(params: Params) -> Params:
  """Returns the parameters that `separate` was given, of blocks in one stack."""
  rest = {n: x for n, x in params.items() if not n.startswith('block_')}
  blocks = []
  for i in range(len(params) - len(rest)):
    block = dict(params[f'block_{i}'])
    three = [block.pop(name) for name in _QKV]
    qkv = jax.tree.map(lambda *x: np.concatenate(x, axis=-1), *three)
    blocks.append(block | {'qkv': qkv})
  return rest | {'blocks_0': jax.tree.map(lambda *x: np.stack(x), *blocks)}


def _entries(network, apart):
  # The table of names; apart: the result of `separate`. Their sinusoids are
  # [cos, sin], ours for 'ho' are [sin, cos].
  swapped = network.noise_embedding == 'ho'
  first = names.TORCH_SWAPPED if swapped else names.TORCH
  rows = LAYERS | {
    'noise_dense_1': (f'{_EMB}.timestep_embedder.linear_1', first),
    'patch_embedding': ('pos_embed.proj', _patches(network)),
  }
  return names.entries(names.expand(rows, network.num_blocks), apart)


def _patches(network):
  # A convolution [D, C, p, p] there, a product of [p p C, D] here.
  p = network.patch_size
  kernel = names.NameRule(
    lambda x: x.transpose(2, 3, 1, 0).reshape(-1, len(x)),
    lambda x: x.reshape(p, p, -1, x.shape[-1]).transpose(3, 2, 0, 1),
  )
  return names.torch_layer(kernel)
