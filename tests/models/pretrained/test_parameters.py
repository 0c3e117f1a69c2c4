"""Parameters of transformers: stacked, drawn, with a head."""

import jax
import numpy as np
import pytest
from small_transformers import CONFIGS, params_of

from metajax.models.pretrained import add_head, stack_blocks, unstack_blocks
from metajax.models.pretrained.parameters import draw, shapes


def test_stacking_is_undone_and_done_once():
  params = params_of('llama')
  stacked = stack_blocks(params)
  assert stack_blocks(stacked) is stacked
  assert unstack_blocks(params) is params
  again = unstack_blocks(stacked)
  jax.tree.map(np.testing.assert_array_equal, params, again)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'block_1': {'other': np.ones(1)}}, 'block_1 is not of the form'),
    ({'block_3': {}}, 'there must be blocks block_0, block_1'),
    ({'blocks': {}}, 'both'),
  ],
)
def test_blocks_that_cannot_be_stacked_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    stack_blocks({**params_of('bert'), **change})


def test_leaves_that_disagree_in_their_layers_are_refused():
  with pytest.raises(ValueError, match='one leading axis of layers'):
    unstack_blocks({'blocks': {'a': np.ones((2, 3)), 'b': np.ones(3)}})


def test_a_training_from_nothing_starts_near_the_identity():
  tree = shapes(CONFIGS['gpt2'])
  params = jax.jit(lambda key: draw(key, tree))(jax.random.key(0))
  block = params['block_1']
  assert set(np.unique(block['attention_norm']['scale'])) == {1}
  assert set(np.unique(block['attention']['key']['bias'])) == {0}
  drawn = np.concatenate(
    [np.ravel(params[f'block_{i}']['feed_forward']['in']['kernel'])
     for i in range(2)]
  )  # fmt: skip
  assert 0.015 < drawn.std() < 0.025
  assert len(np.unique(drawn)) == drawn.size


def test_a_head_replaces_another():
  params = add_head(jax.random.key(0), params_of('bert'), 3)
  params = add_head(jax.random.key(0), params, 5)
  assert params['head']['kernel'].shape == (8, 5)
  with pytest.raises(ValueError, match='1 output or more, got 0'):
    add_head(jax.random.key(0), params, 0)
