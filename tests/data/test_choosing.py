"""Which images a choice means, and which choices are refused."""

from __future__ import annotations

import numpy as np
import pytest

import ibpc
from ibpc.data import is_first, listed
from ibpc.errors import UsageError


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        (":", list(range(20))),
        (":3", [0, 1, 2]),
        ("0:3", [0, 1, 2]),
        ("17:", [17, 18, 19]),
        ("18:99", [18, 19]),
        ("7", [7]),
        ("7,3,19", [3, 7, 19]),
        ([7, 3, 19], [3, 7, 19]),
        (range(2, 5), [2, 3, 4]),
        (np.array([4, 1]), [1, 4]),
        ("random:20", list(range(20))),
    ],
)
def test_a_choice_is_increasing_indices(choice, wanted):
    assert list(ibpc.chosen_images(choice, 20)) == wanted


def test_samples_follow_their_seed():
    found = [ibpc.chosen_images("random:50", 500, seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert all(one == sorted(set(one)) and len(one) == 50 and 0 <= one[0] <= one[-1] < 500 for one in found)
    every = {index for seed in range(60) for index in ibpc.chosen_images("random:50", 500, seed)}
    assert len(every) > 490


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("", "found ''"),
        ("3:1", "none of 20 images"),
        ("20:", "none of 20 images"),
        ([], "at least one"),
        ("random:0", "at least one"),
        ("random:21", "at most 20"),
        ("random", "found 'random'"),
        ("3,20", "index 20"),
        ([-1, 3], "index -1"),
        ("3,7,3", "index 3 more than once"),
        ("-3", "found '-3'"),
        ("1:5:2", "found '1:5:2'"),
        ("3, 7", "found '3, 7'"),
        ("٣", "found"),
        ([1.0], "no integer"),
        ([True], "no integer"),
        (5, "found 5"),
    ],
)
def test_other_choices_are_refused(choice, said):
    with pytest.raises(UsageError, match=said):
        ibpc.chosen_images(choice, 20)


def test_indices_are_listed_short():
    assert [listed(one) for one in ([3], [3, 4], [3, 7, 9], range(100, 200))] == ["3", "3, 4", "3, 7, 9", "100 to 199"]
    assert listed([*range(0, 40, 2)]) == "0, 2, 4, 6, 8, 10, 12, 14, 16, …, 38"
    assert is_first(range(5)) and is_first([0, 1]) and not is_first(range(1, 5)) and not is_first([0, 2])
