"""What readers of data refuse: one row for each rule, as called."""

import functools
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet

from diffusion_jax.data import images, small_sets, sources, tables, text, tfds_sources
from diffusion_jax.data.columns import Columns, ColumnSource, check_columns
from diffusion_jax.data.image_folder import captioned, folder
from diffusion_jax.data.image_sets import read as image_set
from diffusion_jax.data.npz import npz
from diffusion_jax.data.parquet import open_parquet
from diffusion_jax.data.simulated import of_simulator, simulated
from diffusion_jax.data.spec import ArraySpec, Facts
from diffusion_jax.data.splits import validation_part
from diffusion_jax.data.tables import csv_table
from diffusion_jax.data.text_files import text_files
from diffusion_jax.data.webdataset import open_tars, webdataset
from tests import refusals
from tests.data import encoded
from tests.data.encoded import LARGE, PNG, SHAPE
from tests.data.test_simulated import gaussian
from tests.data.test_tables import SPEC

X = np.arange(12.0).reshape(6, 2)
X4, NAN = X[:4], np.where(X == 5, np.nan, X)
FACTS = Facts(ArraySpec((2,)), context=ArraySpec((2,)))
IMAGES = np.arange(10 * 4 * 5 * 3, dtype=np.uint8).reshape(10, 4, 5, 3)
CHANNELS_FIRST = np.zeros((4, 3, 6, 5), np.uint8)
ARRAYS = {'images': IMAGES, 'labels': np.arange(10) % 3}
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
GOOD, TWO = [('0.png', PNG), ('0.cls', b'1')], [('0.png', b'a'), ('0.jpg', b'b')]
SPLIT = {'x': X, 'test_indices': [[1]]}
NULLS = pyarrow.nulls(1_000_000, pyarrow.binary())
TABLE = ', or a table with the columns floor area, city, rooms'


def as_bytes(save: Any, *args, **arrays):
  file = io.BytesIO()
  save(file, *args, **arrays)
  return file.getvalue()


def changed(data, place, new):
  return data[:place] + new + data[place + len(new) :]


NPY, WHOLE = as_bytes(np.save, np.zeros(3)), as_bytes(np.savez, **ARRAYS)
METHOD = changed(WHOLE, WHOLE.index(b'PK\1\2') + 10, b'c')  # is not known
ZEROS = changed(as_bytes(np.savez_compressed, **ARRAYS), 100, bytes(20))
FLIPPED = as_bytes(np.savez_compressed, arr_0=NOISE[None])
FLIPPED = changed(FLIPPED, 6000, bytes([FLIPPED[6000] ^ 1]))
HEAD = changed(LARGE, 11, bytes([12]))  # the length of the header, 13


def written(data, name='a.npz'):
  Path(name).parent.mkdir(parents=True, exist_ok=True)
  Path(name).write_bytes(data)
  return name


def saved(**arrays):
  return written(as_bytes(np.savez, **arrays))


def table(data, x='a', **fields):
  """Reads a CSV file with some columns."""
  data = data if isinstance(data, bytes) else data.encode()
  return csv_table(written(data, 'a.csv'), tuple(x.split()), **fields)


def of_another_category(name):
  test_path = written(f'a,b\n3,{name}\n'.encode(), 'b.csv')
  return table('a,b\n1,u\n2,v\n', label='b', test_path=test_path, split='test')


def in_memory(**cells):
  return tables.rows_of({'floor area': 80.0, 'city': 'Chur', 'rooms': 3} | cells, SPEC, 'y')


def as_rows(rows):
  return tables.rows_of(rows, SPEC, 'y')


def npy(data):
  return npz(Path(written(data, 'top/images.npy')).parent)


def header(*shape):
  """Reads images of a file whose header has a shape, without an image."""
  about = {'descr': '<f4', 'fortran_order': False, 'shape': shape}
  with zipfile.ZipFile('a.npz', 'w') as archive, archive.open('arr_0.npy', 'w') as file:
    np.lib.format.write_array_header_1_0(file, about)
  return image_set('a.npz', any_shape=True)


def batches(path):
  return [*image_set(path).batches(3)]


def image(data, name):
  return images.read_image(written(data, name))


def tif(pixels):
  Image.fromarray(pixels).save('a.tif')
  return images.read_image('a.tif')


def signed(pixels):
  Image.fromarray(pixels).save('a.tif', tiffinfo={339: 2})
  return images.read_image('a.tif')


def pictures(*names):
  return [Path(written(PNG, f'top/{name}')) for name in names] and Path('top')


def classes(split, *names):
  return folder(pictures(*names), split, labelled=True)


def captions(line):
  """Reads two pictures with captions; `line` is the third one."""
  lines = f'{{"file_name": "dogs/1.png", "text": "a dog"}}\n\n{line}'
  written(lines.encode(errors='surrogateescape'), 'top/metadata.jsonl')
  return captioned(folder(pictures('cats/1.png', 'dogs/1.png')))


def tar(*members, **fields):
  encoded.tar('a.tar', members)
  return webdataset('a.tar', num_classes=3, image_shape=SHAPE, **fields)


def second(name, picture, label):
  return tar(*GOOD, (name, picture), ('1.cls', label)).read(np.array([0, 1]))


def parquet_row(**columns):
  """Reads the row of a parquet file of pictures, with classes 0..2 or none."""
  parquet.write_table(pyarrow.table(columns), 'a.parquet')
  table, row = open_parquet('x', ['a.parquet'], [*columns], 10), np.arange(1)
  facts = sources.pictures(SHAPE, 3 * ('label' in columns))
  return ColumnSource(table, Columns(*columns), row, facts).read(row)


def of_array(x, **fields):
  return sources.measured(sources.ArraySource(x, **fields))


def examples(**arrays):
  return sources.check_examples(arrays, FACTS)


def uniform(rng, n):
  return {'x': rng.uniform(0, 2, (n, 2))}


def no_numbers(rng, n):
  return {'x': np.full((n, 2), np.nan)}


def widening(rng, n):
  return {'x': np.zeros((n, 1 + n // 100))}


def text_of(data):
  return text_files(path=written(data, 'a.txt'))


MISSING = 'it must contain x, images or arr_0'
NO_NPZ = 'a.npz is not an npz file of arrays'
FIT = 'a.npz: test_indices must be int [splits, n], whose row 0 names some of 0..5, each once; got '
WRONG = [
  (lambda: npz(saved(pictures=X, foo=X)), f'a.npz has the arrays pictures, foo; {MISSING}'),
  (lambda: npz(saved()), f'a.npz has the arrays none; {MISSING}'),
  (lambda: npz(saved(images=IMAGES), num_classes=3), f'has the arrays images; {MISSING}'),
  (lambda: npz(saved(**ARRAYS, test_images=IMAGES), 'test', 3), f'{MISSING} ... also test_labels'),
  (lambda: npz(saved(x=X, images=X)), 'x and images, which both may be x: name one by x=x, for'),
  (lambda: npz(saved(x=X, label=X, labels=X), num_classes=6), 'label and labels, which both may'),
  (lambda: npz(saved(x=X.astype(int))), 'x is int64 [6, 2]: uint8 arrays are ... numbers as float'),
  (lambda: npz(saved(x=X > 1)), 'x is bool [6, 2]:'),
  (lambda: npz(saved(x=np.uint8(X[0]))), 'x must be ... got uint8 [2]: reshape numbers to [N, 1]'),
  (lambda: npz(saved(x=X[:0])), 'got float64 [0, 2]'),
  (lambda: npz(saved(x=NAN)), 'a.npz: x has numbers that are not finite'),
  (lambda: npz(saved(x=X, context=NAN)), 'context has numbers that are not finite'),
  (lambda: npz(saved(x=X, context=X[:5])), 'context must be float [6, ...], got float64 [5, 2]'),
  (lambda: npz(saved(x=X, context=X[:, 0])), 'context must be ... got float64 [6]'),
  (lambda: npz(saved(x=X, context=X.astype(int))), 'context must be ... got int64'),
  (lambda: npz(saved(x=X, test_x=X, context=X), 'test'), 'a.npz has test_x and context: it needs'),
  (lambda: npz(saved(x=X, y=X), x='z'), 'a.npz has no array z, but x, y'),
  (lambda: npz(saved(x=X), split_row=2), 'split_row=2: a.npz has test_x, or no test_indices'),
  (lambda: npz(saved(**SPLIT, test_x=X), split_row=1), 'split_row=1: a.npz has test_x'),
  (lambda: npz(saved(**SPLIT), split_row=1), 'whose row 1 names some of 0..5'),
  *(
    (lambda rows=rows: npz(saved(x=X, test_indices=rows)), f'{FIT}{found}')
    for rows, found in (
      *(([0, 1], 'int64 [2]'), (X, 'float64 [6, 2]'), ([[6]], 'int64 [1, 1]')),
      *(([[2, 2]], 'int64 [1, 2]'), ([[*range(6)]], 'int64 [1, 6]')),
    )
  ),
  (lambda: npz(saved(x=X), bounds=(0.0,)), 'low,high of each of 2 numbers in turn; got 1 numbers'),
  (lambda: npz(saved(x=X), bounds=(0.0, 1.0) * 3), 'got 6 numbers'),
  (lambda: npz(saved(x=X), bounds=(0.0, 0.0)), 'each low must be below its high'),
  (lambda: npz(saved(x=X), bounds=(0.0, 10.0)), '1 of 6 ... bounds, such as [10, 11]: widen'),
  (lambda: npz(saved(x=X), bounds=(-1.0, 20.0, 1.0, 9.0)), '1 of 6 examples ... [10, 11]'),
  (lambda: npz(saved(**ARRAYS), num_classes=2), 'in 0..1, got int64 [10], 0..2'),
  (lambda: npz(saved(images=IMAGES, labels=[0, 1]), num_classes=2), 'labels ... [10] in 0..1, got'),
  (lambda: npz(saved(**ARRAYS), 'test'), 'a.npz has no test split: set test_fraction'),
  (lambda: npz(saved(**ARRAYS), 'val'), "split 'val' is not one of train, test"),
  (lambda: npz(saved(**ARRAYS), 'test', test_fraction=0.01), 'leaves none of the 10'),
  (lambda: npz(saved(images=np.array([dict()]))), f'{NO_NPZ}: it contains Python objects'),
  *(
    (lambda data=data: npz(written(data)), NO_NPZ)
    for data in (b'hello', b'', METHOD, ZEROS, WHOLE[:300])
  ),
  (lambda: npz(written(NPY)), f'{NO_NPZ}: numpy.savez(file, x=array) writes one'),
  (lambda: npz(written(b'1,2', 'table.csv')), 'writes one; data=csv reads a table'),
  (lambda: npy(b'no array'), 'images.npy is not a .npy file:'),
  (lambda: npy(as_bytes(np.save, np.array([dict()]))), 'it contains Python objects'),
  (lambda: npz(saved(x=CHANNELS_FIRST)), 'is read as 3 rows and 5 channels: ... x.transpose(0'),
  # sets of pictures that are compared
  (lambda: image_set(saved(arr_0=IMAGES, images=IMAGES)), 'arr_0 and images, which both may be'),
  (lambda: image_set(saved(x=np.zeros(3))), 'a.npz has the arrays x; ... images or arr_0 (uint8'),
  (lambda: image_set(saved(arr_0=np.zeros(3), protocol='x')), 'a.npz: protocol is not JSON'),
  (lambda: image_set(saved(arr_0=np.zeros((2, 3)))), 'arr_0 must be uint8 ... got float64 [2, 3]'),
  (lambda: image_set(saved(arr_0=np.zeros((2, 2, 2, 3), object))), 'got object [2'),
  *((lambda x=x: header(*x), f'got float32 {[*x]}') for x in ((-5, 2), (5, -2), (0, 2), (5, 0))),
  (lambda: image_set(written(NPY, 'a.npy')), 'arrays: numpy.savez(file, images=array) writes one'),
  (lambda: image_set(written(b'{}')), 'is not an npz file of arrays'),
  (lambda: image_set(saved(arr_0=CHANNELS_FIRST)), 'x.transpose(0, 2, 3, 1)'),
  (lambda: batches(written(FLIPPED)), NO_NPZ),
  (lambda: batches(saved(arr_0=IMAGES / 127.5 - 1.0)), 'levels 0..255, got float64 from -1 to'),
  (lambda: batches(saved(arr_0=np.float32(IMAGES > 99))), '0..255, got float32 from 0 to 1: save'),
  # pictures
  (lambda: image(b'not a picture', 'text.png'), 'text.png cannot be read as an image'),
  (lambda: image(LARGE[:2000], 'cut.png'), 'cut.png cannot be read'),
  (lambda: image(HEAD, 'head.png'), 'head.png cannot be read'),
  (lambda: images.decode_image(b'text', 'a'), 'a cannot ... : its format is unknown'),
  (lambda: tif(np.float32(X / 11)), 'a.tif has pixels of mode F,'),
  (lambda: tif(np.int32(X)), 'a.tif has signed pixels of mode I,'),
  (lambda: signed(np.uint8(X)), 'a.tif has signed pixels of mode L, whose range is unknown'),
  (lambda: signed(np.uint16(X)), 'a.tif has signed pixels of mode I,'),
  (lambda: images.fit(NOISE, 10, 'pad'), "how 'pad' is not one of crop, scale"),
  (lambda: folder(pictures('a.png'), 'test'), 'has no test split: set test_fraction'),
  (lambda: folder(pictures('a.png'), test_fraction=1.0), 'be a number in [0, 1), not 1.0'),
  (lambda: folder(pictures('1.png', '2.png'), 'test', test_fraction=1e-6), 'leaves none of the 2'),
  (lambda: classes('train', 'red/a.png', 'lost.png'), 'lost.png is not in a ... labelled=False'),
  (lambda: classes('test', 'train/red/x.png', 'val/pink/x.png'), 'pink/x.png is not in a sub-'),
  # examples with names, in tar and parquet
  (lambda: second('1.png', PNG, b'one'), 'a.tar, 1: ... cls must be an integer'),
  (lambda: second('1.png', PNG, b'3'), 'a.tar, 1: ... integer in 0..2, got 3'),
  (lambda: second('1.png', PNG[:99], b'1'), 'a.tar, 1: ... cannot be read as an image'),
  (lambda: second('1.png', b'not a picture', b'1'), 'a.tar, 1: ... format is unknown'),
  (lambda: tar(*GOOD, ('1.cls', b'1')), "a.tar, 1 has no 'jpg;jpeg;png;webp'"),
  (lambda: tar(*GOOD, label_column='cat'), "a.tar, 0 has no 'cat'; ... the extensions png, cls"),
  (lambda: tar(('0.png', PNG), ('0.json', b'3'), label_column='json:none'), "'none', got b'3'"),
  (lambda: tar(), 'a.tar has no examples'),
  (lambda: open_tars(encoded.tar('a.tar', TWO), ['jpg;png']), "0 has two members of 'jpg;png'"),
  (lambda: tar(*GOOD, ('1.png', PNG[:99]), ('1.cls', b'1'), check=True), '1 of 2 pictures in'),
  (lambda: check_columns('a set', ['image'], ['image', 'label'], 'label'), "no column 'label'"),
  (lambda: parquet_row(image=[PNG], label=[True]), 'label must be an integer in 0..2, got True'),
  (lambda: parquet_row(image=[dict(bytes=None, path='a.png')]), 'row 0: image must be the bytes'),
  (lambda: parquet_row(image=NULLS), '1,000,000 rows in ... rows of images are larger'),
  # arrays
  (lambda: of_array(np.where(X4 == 3, np.inf, X4)), 'x has numbers that are not finite'),
  (lambda: of_array(X4 * [1.0, 0.0] + 7.0), 'x never changes at 1 of its last axis (7)'),
  (lambda: of_array(X4 * [1e-15, 1.0] + 0.1), 'x never changes at 0 of its last axis (0.1)'),
  (lambda: of_array(X4 * 1e300), 'x has numbers up to 7e+300: take a unit ... below 1e+37'),
  (lambda: of_array(X4[:1]), 'x has one example: it has no standard deviation'),
  (lambda: of_array(X4, low=(0.0, 0.0), high=(7.0, 6.0)), '1 of 4 ... bounds, such as [6, 7]:'),
  (lambda: of_array(X4, context=0 * X4), 'context never changes at 0 of its last axis'),
  (lambda: of_array(X4, context=X4 * np.nan), 'context has numbers that are not finite'),
  (lambda: of_array(np.uint8(X4), context=0 * X4), 'context never changes at 0'),
  (lambda: of_array(X4, levels=256), 'x must be uint8 [n, 2], got float64'),
  (lambda: of_array(X4.astype(complex)), 'x must be float [n, 2], got complex128'),
  (lambda: of_array(X4.astype(str)), 'x must be float'),
  (lambda: of_array(X4, context=X4.astype(object)), 'context must be float [n, 2]'),
  (lambda: sources.check_examples(X4, FACTS), "must return a dict with 'x', got ndarray"),
  (lambda: examples(context=X4), "read must return a dict with 'x', got dict"),
  (lambda: examples(x=X4), "read must return a dict with 'context'"),
  (lambda: examples(x=X4[:, :1], context=X4), 'x must be float [n, 2], got float64 [4'),
  (lambda: examples(x=X4, context=X4 * np.nan), 'context has numbers that'),
  (lambda: sources.Binarized(sources.ArraySource(X4)), 'real numbers, and levels are needed'),
  (lambda: sources.Binarized(small_sets.digits(), 'half'), "how 'half' is not one of drawn, thr"),
  (lambda: small_sets.digits('valid'), "'valid' is not one of"),
  (lambda: small_sets.synthetic('valid'), "'valid' is not one of"),
  (lambda: validation_part(4, 'validation', 0.0, 0), '=0.0 leaves none of ... for the validation'),
  (lambda: validation_part(4, 'validation', 0.9, 0), 'leaves none of the 4 ... for the training'),
  # simulators
  (lambda: of_simulator(lambda rng, n: np.zeros((n, 2))), 'return a dict with x, ... got ndarray'),
  (lambda: of_simulator(lambda rng, n: dict(theta=np.zeros((n, 2)))), "got ['theta']"),
  (lambda: of_simulator(lambda rng, n: dict(x=np.zeros((n, 2)), y=0)), "got ['x', 'y']"),
  (lambda: of_simulator(lambda rng, n: dict(x=np.zeros(n))), 'of the shape [100, ...], got [100]'),
  (lambda: of_simulator(lambda rng, n: dict(x=np.zeros((2, n)))), 'got [2, 100]'),
  (lambda: of_simulator(lambda rng, n: uniform(rng, n) | dict(context=np.zeros(n))), 'context of'),
  (lambda: of_simulator(widening, num_examples=150), 'the same shapes each'),
  (lambda: of_simulator(no_numbers), 'all 10000 simulations have NaN: none'),
  (lambda: of_simulator(no_numbers, fresh=True), 'all 100 simulations have NaN'),
  (lambda: of_simulator(uniform, bounds=(0.0, 1.9)), 'examples are outside bounds'),
  (lambda: of_simulator(uniform, bounds=(0.0, 1.9), fresh=True), 'are outside bounds'),
  (lambda: of_simulator(uniform, bounds=(0.0, 1.0, 2.0)), 'of 2 numbers in turn; got 3 numbers'),
  (lambda: of_simulator(uniform, joint=True), 'joint needs a simulator that returns'),
  (lambda: simulated(gaussian)(split='val'), "split 'val' is not one of"),
  # texts, and sets of tfds
  (lambda: text.encode(['abc', 'abcd'], 3), "text_length=3 bytes, got 'abcd' with 4"),
  (lambda: text.encode(['abc', ''], 3), 'each text must have a word'),
  (lambda: text.encode(['abc', 2 * ' '], 3), 'each text must have a word'),
  (lambda: text_files(path=written(b'x' * 20), length=30), '20 bytes of text, too few ... 30'),
  (lambda: tfds_sources.tfds('train', 'cifar1', data_dir='.'), "set 'cifar1' ... mean cifar10"),
  (lambda: tfds_sources.tfds('train', 'a b', data_dir='.'), "'a b' is not name"),
  (lambda: tfds_sources.tfds('train', 'mnist/data_dir=/x', data_dir='.'), "=/x' is not name["),
  # tables
  (lambda: table('a,b\n1,2\n', ''), 'x is empty: name columns of a.csv'),
  (lambda: table('a,b\n1,2\n', 'a b a'), "column 'a' is named twice in x, context and label"),
  (lambda: table('a,b=c\n1,2\n', context=('rest',)), "a.csv: rename column 'b=c' without '='"),
  (lambda: table('a,b\n1,2\n', categories=('b',)), 'categories=b is not a column of context'),
  (lambda: table('a\n1\n', context=('rest',)), 'has no columns besides x and label'),
  (lambda: table('"a, b",c\n1,2\n', 'b'), 'a.csv has no column \'b\', but "a, b", c'),
  (lambda: table('a\nNaN\n', drop_missing=True), 'a.csv: each row lacks a value of a'),
  (lambda: of_another_category('w'), "b.csv, row 2, column 'b': 'w' is not one of its ... u, v"),
  (lambda: in_memory(city='chur'), "y, row 0, column 'city': 'chur' (did you mean 'Chur'?)"),
  (lambda: in_memory(city=None), "y, row 0, column 'city': the value is missing"),
  (lambda: in_memory(rooms=np.nan), "y, row 0, column 'rooms': the value is missing"),
  (lambda: in_memory(rooms=[3, 'big']), "y, row 1, column 'rooms': 'big' is not a number"),
  (lambda: in_memory(rooms=[3, 2], city=['Chur'] * 3), 'y needs columns of one length'),
  (lambda: in_memory(rooms=[]), 'y needs columns of one length'),
  (lambda: as_rows(dict(Rooms=3)), "y has no column 'floor area', but Rooms"),
  (lambda: as_rows([80.0, 'Chur', 3]), f"y=[80.0, 'Chur', 3] is not an array of numbers{TABLE}"),
  (lambda: as_rows([80.0, 1.0, 3.0]), f'y has the shape [3], and [4] or [K, 4] is needed{TABLE}'),
  (lambda: as_rows(np.zeros((0, 4))), 'y has the shape [0, 4]'),
  (lambda: as_rows(dict()), 'is not an array'),
  (lambda: sources.measured(table('a,b\n1,2\n2,2\n', context=('b',))), "never changes at 'b' (2)"),
]
# Tables as typed, their rows apart by ' | ', and what is said of them as a.csv.
TYPED = r"""
 => a.csv needs a header with the names of its columns, and rows below it
a,b | 1 | 2 => a.csv, row 2 has 1 cells, and the header 2: a cell with ',' in it must be in quotes,
  and decimals need a point; delete a row that is a title, a comment or a footer
# x | a,b | 1,2 => a.csv, row 2 has 2 cells, and the header 1: its first row is a comment
Sales | a;b | 1;2 => row 2 has 2 cells, and the header 1: delete the first row if it is a title
Sales,, | a,b,c | 1,2,3 => no column 'a', but Sales: the first row must name the columns
"a","b" | "1",1,2 | "2",3,4 => row 2 has 3 cells, and the header 2: ... row.names=FALSE
"a" "b" | "1" 1 2 | "2" 3 4 => row 2 has 3 cells, and the header 2: ... row.names=FALSE
a,b | 1,5,2,5 => row 2 has 4 cells, and the header 2: ... and decimals need a point
a,b | 1,5,2 => row 2 has 3 cells, and the header 2: ... and decimals need a point
a,b | 1,2 |  | 3 => a.csv, row 4 has 1 cells, and the header 2: a cell with ',' in it
a;b | 1;2 | 1;"2"3 => a.csv, row 3: ';' expected after '"'
a, b,a | 1,2,3 => a.csv has several columns 'a': rename them
1,1,x | 2,3,y => has several columns '1': rename them; the first row must name the columns
5.1,3.5,x | 4.9,3.0,y => no column 'a', but 5.1, 3.5, x: the first row must name the columns
b,,c | 1,2,3 => a.csv has no column 'a', but b, c
a,b | 1,2 | ,3 => a.csv, row 3, column 'a': the value is missing: fill it in, or leave
a;b | 1;2 | 1,5;3 => row 3, column 'a': '1,5' is not a number: correct it (numbers have a decimal
  point
a | 7A | 12 => row 2, column 'a': '7A' is not a number: correct it (numbers have a decimal point and
a | 1e999 => row 2, column 'a': '1e999' is not a number
a | 1_0 => row 2, column 'a': '1_0' is not a number
a | x => row 2, column 'a': 'x' is not a number: correct it ... or give columns of 0 and 1, or
a | NaN => row 2, column 'a': 'NaN' is a missing value: fill it in, or leave the row out
  (drop_missing=True)
<!DOCTYPE html> => a.csv is a page of HTML
[{"a": 1}] => a.csv is JSON: write it as CSV
"""
WITH_CONTEXT = r"""
a,b | 1,7A | 2,12 => row 2, column 'b': '7A' ... (categories=b)
a,b | 1,2 | 1,n/a => row 3, column 'b': 'n/a' is a missing value
a,b | 1,x | 1, | 1,y => a.csv: column 'b' has texts, such as 'x', 'y', and no number ...
  data.categories=b reads
a;b | 1;1,5 | 1;2,5 => column 'b' has texts, such as '1,5', '2,5', and no number (numbers have a
  decimal point
a,b | 1,x | 2,x => a.csv: column 'b' has 1 different texts, and 2 to 200
"""
# Lines of a file of captions whose line 3 must be like those above it.
CAPTIONS = r"""
{"file_name":  => line 3 must be like {"file_name": "cats/1.png",
{"file_name": "cats/1.png"} => metadata.jsonl, line 3 must be like
{"file_name": "cats/1.png", "text": " "} => metadata.jsonl, line 3 must be like
{"text": "a cat"} => metadata.jsonl, line 3 must be like
["cats/1.png", "a cat"] => metadata.jsonl, line 3 must be like
{"file_name": "cat.png", "text": "a"} => cats/1.png has no line in
{"file_name": "cats/../dogs/1.png", "text": "two"} => line 3: cats/../dogs/1.png has a text already:
  give each picture one
"""
NO_UTF_8 = '{"file_name": "\udcff', 'metadata.jsonl, line 3 must be like'
# Files that are not UTF-8, read as lines and as a table.
NO_TEXT = [
  (b'\x1f\x8b\x08\0', 'compressed by gzip: unpack it'),
  (b'(\xb5/\xfd\x04\0', 'compressed by zstd: unpack it'),
  (b'%PDF-1.7\n%\xe2\xe3', 'a PDF: save its text in UTF-8'),
  (b'PK\x03\x04\x14\0', 'a zip archive or an Excel workbook (xlsx): unpack it, or save'),
  (b'\xd0\xcf\x11\xe0\0', 'an Excel workbook (xls): save its sheet as CSV in UTF-8'),
  (b'PAR1\x15\x04', 'a Parquet file: pandas.read_parquet'),
  ('a\tb\n1\t2\n'.encode('utf-16'), 'text in UTF-16: save it in UTF-8'),
  ('ab\ncd'.encode('utf-16-le'), 'not text in UTF-8 (byte 2): save it in UTF-8; line 1 has b'),
  (b'a,b\n1,2\n\x002,3\n', "not text in UTF-8 (byte 9) ... line 3 has b'\\x00'"),
  ('ab\ncé, d'.encode('latin-1'), "not text in UTF-8 (byte 5): ... line 2 has b'\\xe9'"),
]
LOST = [
  (lambda: npz('none.npz'), 'npz file none.npz not found'),
  (lambda: csv_table('none.csv', ('a',)), 'CSV file none.csv not found'),
  (lambda: npz('.'), 'has no .npy files; ... =folder'),
  (lambda: image_set('none.npz'), 'none.npz not found'),
  (lambda: image_set('.'), 'contains no pictures'),
  (lambda: images.read_image('none.png'), 'image none.png not found'),
  (lambda: images.read_image('gs://a/b.png'), 'image gs://a/b.png is an address: copy it to this'),
  (lambda: folder('none'), 'folder none not found; data=folder ... data=npz'),
  (lambda: folder(saved()), 'folder a.npz not found: it is a file; ... data=npz'),
  (lambda: folder('.'), 'contains no pictures'),
  (lambda: captioned(folder(pictures('a.png'))), 'metadata.jsonl is missing'),
  *((lambda x=x: webdataset(x), f'{x} ... folder with *.tar') for x in ('.', 'none-*.tar', 'none')),
  (lambda: webdataset('a-{000..003}.tar'), 'existing files: * stands for {000..003}'),
  (lambda: text_files(path='absent'), 'No such file ... absent'),
  (lambda: tfds_sources.tfds('train', 'celeb_a', data_dir='.'), 'tfds build celeb_a --file'),
]


def of_files():
  """Yields the rows of files that are typed above, as calls."""
  for lines, fields in ((TYPED, {}), (WITH_CONTEXT, {'context': ('b',)})):
    for typed, message in refusals.typed(lines):
      yield functools.partial(table, typed.replace(' | ', '\n') + '\n', **fields), message
  for line, message in (*refusals.typed(CAPTIONS), NO_UTF_8):
    yield functools.partial(captions, line), message
  for data, what in NO_TEXT:
    yield functools.partial(table, data), f'a.csv is {what}'
    yield functools.partial(text_of, data), f'a.txt is {what}'


TABLES = {ValueError: [*WRONG, *of_files()], FileNotFoundError: LOST}
test_what_is_wrong_or_lost_is_named = refusals.each(TABLES)
