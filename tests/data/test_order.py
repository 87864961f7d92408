"""The endless order of records."""

import numpy as np
import pytest

from keras_muse.data.order import Order


def test_every_epoch_has_every_record_in_another_order():
    order = Order(20, seed=3)
    epochs = [[order[20 * epoch + i] for i in range(20)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    # Looking back, and by another object, it is the same.
    assert [order[i] for i in range(20)] == epochs[0]
    assert [Order(20, seed=3)[40 + i] for i in range(20)] == epochs[2]
    assert [Order(20, seed=4)[i] for i in range(20)] != epochs[0]


def test_without_shuffle_records_keep_their_order():
    order = Order(3, shuffle=False)
    assert [order[i] for i in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_the_first_place_goes_to_every_record():
    firsts = [Order(5, seed)[0] for seed in range(400)]
    # 80 each, standard deviation 8.
    assert np.bincount(firsts, minlength=5).min() > 48


@pytest.mark.parametrize("bad", [(), (4,), (0, 3, 6)])
@pytest.mark.parametrize("shard", [(0, 1), (1, 3)])
def test_position_after(bad, shard):
    order = Order(7, seed=1)
    index, count = shard

    def is_own(positions):
        return positions // 2 % count == index

    # The slow way: walk along and count.
    seen, expected = 0, {0: 0}
    for position in range(80):
        if is_own(position) and order[position] not in bad:
            seen += 1
            expected[seen] = position + 1
    for seen in range(11):
        found = order.position_after(seen, bad, is_own)
        if seen:
            assert found == expected[seen]
        else:
            assert found == 0


def test_nothing_to_read():
    with pytest.raises(ValueError, match="at least one record"):
        Order(0)
    with pytest.raises(ValueError, match="`seed` must be 0 or more: received -1"):
        Order(3, seed=-1)
    with pytest.raises(ValueError, match="All 2 records are bad"):
        Order(2).position_after(1, {0, 1}, lambda positions: positions >= 0)
