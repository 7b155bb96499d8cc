"""DiTTransformer2DModel of diffusers as our `DiT`, and back.

diffusers keeps a copy of the embedding of noise and label in every block, and
queries, keys and values apart. Ours has one embedding, one product for the
three, and all blocks in one array.
"""

import re
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np

from diffusion_jax.interop import diffusers_options as theirs, layers, names
from diffusion_jax.interop.diffusers_options import Same
from diffusion_jax.interop.options import check
from diffusion_jax.networks.transformer import DiT

CLASS = 'DiTTransformer2DModel'
# The options of the class with their defaults, which a config.json may lack.
OPTIONS: dict[str, Any] = {
  'num_attention_heads': 16,
  'attention_head_dim': 72,
  'in_channels': 4,
  'out_channels': None,
  'num_layers': 28,
  'dropout': 0.0,
  'norm_num_groups': 32,
  'attention_bias': True,
  'sample_size': 32,
  'patch_size': 2,
  'activation_fn': 'gelu-approximate',
  'num_embeds_ada_norm': 1000,
  'upcast_attention': False,
  'norm_type': 'ada_norm_zero',
  'norm_elementwise_affine': False,
  'norm_eps': 1e-5,
}
# More options of Transformer2DModel, the class of DiT's files before diffusers
# 0.29; they have no use here.
OLDER: dict[str, Any] = {
  'attention_type': 'default',
  'cross_attention_dim': None,
  'double_self_attention': False,
  'num_vector_embeds': None,
  'only_cross_attention': False,
  'use_linear_projection': False,
}
NORM_EPS = 1e-6  # of ours, and of DiT's release
# Options that are fields of `DiT`.
FIELDS = (
  Same('num_layers', 'num_blocks'),
  Same('num_attention_heads', 'num_heads'),
  Same('patch_size', 'patch_size'),
  Same('dropout', 'dropout'),
)

_BLOCK, _EMBEDDINGS = 'transformer_blocks.{}', 'norm1.emb'
# the embeddings of blocks after the first
_COPY = re.compile(r'(transformer_blocks\.)([1-9]\d*)(\.norm1\.emb\..*)')
_POSITIONS = 'pos_embed.pos_embed'  # a constant that older files hold
_QKV = 'query', 'key', 'value'
_EMB = f'{_BLOCK.format(0)}.{_EMBEDDINGS}'
_LINEAR = layers.TORCH.linear
LAYERS = {
  'noise_dense_2': (f'{_EMB}.timestep_embedder.linear_2', _LINEAR),
  'label_embedding/table': (
    f'{_EMB}.class_embedder.embedding_table',
    layers.TORCH_EMBEDDING,
  ),
  'block_{i}/modulation': ('transformer_blocks.{i}.norm1.linear', _LINEAR),
  'block_{i}/query': ('transformer_blocks.{i}.attn1.to_q', _LINEAR),
  'block_{i}/key': ('transformer_blocks.{i}.attn1.to_k', _LINEAR),
  'block_{i}/value': ('transformer_blocks.{i}.attn1.to_v', _LINEAR),
  'block_{i}/proj': ('transformer_blocks.{i}.attn1.to_out.0', _LINEAR),
  'block_{i}/mlp_in': ('transformer_blocks.{i}.ff.net.0.proj', _LINEAR),
  'block_{i}/mlp_out': ('transformer_blocks.{i}.ff.net.2', _LINEAR),
  'modulation_out': ('proj_out_1', _LINEAR),
  'patch_out': ('proj_out_2', _LINEAR),
}


def read_config(
  config: Mapping[str, Any], noise_embedding: str | None
) -> tuple[DiT, dict[str, Any], SimpleNamespace]:
  """Returns the network of a config.json, its fields, and all options."""
  c = theirs.complete(CLASS, config, OPTIONS | OLDER, FIELDS, _allowed)
  fields = theirs.to_ours(c, FIELDS) | {
    'channels': c.num_attention_heads * c.attention_head_dim,
    'dropout': float(c.dropout),
    'noise_embedding': noise_embedding or 'ho',
  }
  network = DiT(
    **fields,
    out_channels=c.out_channels or c.in_channels,
    num_classes=c.num_embeds_ada_norm,
    null_class=True,
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


def write_config(network: DiT, shape: Sequence[int]) -> dict[str, Any]:
  """Returns the config.json of a DiTTransformer2DModel.

  shape: of what is diffused. Raises ValueError for what the class lacks.
  """
  height, width, channels = shape
  values = vars(network) | {'height': height}
  check('our DiT', values, {
    'noise_embedding': ('ho',),
    'positions': ('sincos',),
    'norm': ('layer',),
    'qk_norm': (False,),
    'mlp': ('gelu',),
    'bottleneck': (0,),
    'class_tokens': (0,),
    'dropout_blocks': ('all',),
    'text_width': (0,),
    'image_channels': (0,),
    'self_conditioning': (False,),
    'elapsed': (False,),
    'guidance_input': (False,),
    'num_classes': '' if network.num_classes else 'it has classes',
    'null_class': (True,),
    'height': (width,),
  }, f'in {CLASS}')  # fmt: skip
  return OPTIONS | theirs.to_theirs(network, FIELDS) | {
    '_class_name': CLASS,
    'attention_head_dim': network.channels // network.num_heads,
    'in_channels': channels,
    'out_channels': network.out_channels,
    'sample_size': height,
    'num_embeds_ada_norm': network.num_classes,
    'norm_eps': NORM_EPS,
  }  # fmt: skip


def read(network: DiT, tensors: Mapping[str, Any], shapes: Any) -> dict:
  """Returns the parameters of a `DiT`, of the shapes of the tree `shapes`.

  Raises ValueError as `names.read`, and if the embeddings of the blocks differ.
  """
  apart = jax.eval_shape(separate, shapes)
  table = _entries(network, apart)

  def ignored(name):
    return bool(_COPY.fullmatch(name)) or name == _POSITIONS

  params = names.read(table, tensors, apart, ignored)
  for name in filter(_COPY.fullmatch, tensors):
    first = _COPY.sub(r'\g<1>0\g<3>', name)
    if not np.array_equal(tensors[name], tensors[first]):
      raise ValueError(
        f'{name} is not {first}: our network has one embedding of noise and '
        'label for all blocks'
      )
  return join(params)


def write(network: DiT, params: Any) -> dict[str, np.ndarray]:
  """Returns the tensors of a DiTTransformer2DModel."""
  apart = separate(params)
  tensors = names.write(_entries(network, apart), apart)
  first = f'{_EMB}.'
  copies = {
    name.replace(first, f'{_BLOCK.format(i)}.{_EMBEDDINGS}.'): array
    for name, array in tensors.items()
    if name.startswith(first)
    for i in range(1, network.num_blocks)
  }
  return tensors | copies


def separate(params: Any) -> dict:
  """Returns parameters with a branch for each block, and q, k and v apart."""

  def block(i):
    one = jax.tree.map(lambda leaf: leaf[i], params['blocks_0'])
    parts = {n: _thirds(leaf) for n, leaf in one['qkv'].items()}
    rest = {name: leaf for name, leaf in one.items() if name != 'qkv'}
    return rest | {
      name: {leaf: three[k] for leaf, three in parts.items()}
      for k, name in enumerate(_QKV)
    }

  rest = {name: x for name, x in params.items() if name != 'blocks_0'}
  return rest | {f'block_{i}': block(i) for i in range(_depth(params))}


def join(params: Any) -> dict:
  """Returns what `separate` was given."""
  rest = {n: x for n, x in params.items() if not n.startswith('block_')}
  blocks = []
  for i in range(len(params) - len(rest)):
    one = dict(params[f'block_{i}'])
    three = [one.pop(name) for name in _QKV]
    qkv = {
      leaf: np.concatenate([part[leaf] for part in three], axis=-1)
      for leaf in three[0]
    }
    blocks.append(one | {'qkv': qkv})
  return rest | {'blocks_0': jax.tree.map(lambda *x: np.stack(x), *blocks)}


def _thirds(leaf):
  width = leaf.shape[-1] // 3
  return [leaf[..., k * width : (k + 1) * width] for k in range(3)]


def _depth(params):
  return len(jax.tree.leaves(params['blocks_0'])[0])


def _entries(network, apart):
  # The table of names; `apart` as `separate` returns it.
  # Their waves are [cos, sin], and those of our 'ho' are [sin, cos].
  swapped = network.noise_embedding == 'ho'
  waves = layers.TORCH_SWAPPED if swapped else _LINEAR
  rows = {
    'noise_dense_1': (f'{_EMB}.timestep_embedder.linear_1', waves),
    'patch_embedding': ('pos_embed.proj', _patches(network)),
  }
  return layers.entries(layers.expand({**rows, **LAYERS}, network), apart)


def _patches(network):
  # A convolution [D, C, p, p] there, a product of [p p C, D] here.
  p, width = network.patch_size, network.channels
  kernel = names.Rule(
    lambda x: x.transpose(2, 3, 1, 0).reshape(-1, width),
    lambda x: x.reshape(p, p, -1, width).transpose(3, 2, 0, 1),
  )
  return layers.torch_layer(kernel)
