"""Whose prompts a response is read behind: another one of its source, however the pool stands."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from spicerack.features.partners import other_prompts

pools = st.lists(st.tuples(st.integers(0, 6), st.sampled_from("ab")), min_size=1, max_size=12)


@given(pool=pools, count=st.integers(1, 3), seed=st.integers(0, 5))
def test_they_are_other_prompts_of_the_source_and_do_not_depend_on_the_order(pool, count, seed):
    prompts, sources = np.array([p for p, _ in pool], dtype=np.uint64), [s for _, s in pool]
    found = other_prompts(prompts, sources, count)
    assert found.shape == (len(pool), count)
    for i, others in enumerate(found.tolist()):
        same = {int(p) for p, s in zip(prompts, sources, strict=True) if s == sources[i]} - {0}
        given_to = [int(prompts[j]) for j in others if j >= 0]
        assert len(given_to) == (min(count, len(same) - 1) if prompts[i] else 0)
        assert set(given_to) <= same - {int(prompts[i])}
        assert len(set(given_to)) == len(given_to)
        assert all(sources[j] == sources[i] for j in others if j >= 0)
    order = np.random.default_rng(seed).permutation(len(pool))
    shuffled = other_prompts(prompts[order], [sources[i] for i in order], count)
    behind = [[prompts[order][j] if j >= 0 else 0 for j in row] for row in shuffled.tolist()]
    assert behind == [[prompts[j] if j >= 0 else 0 for j in found[i]] for i in order]


def test_a_circle_gives_each_prompt_to_as_many():
    found = other_prompts(np.arange(1, 6, dtype=np.uint64), ["a"] * 5, 2)
    assert sorted(found[:, 0].tolist()) == sorted(found[:, 1].tolist()) == [0, 1, 2, 3, 4]
