"""A stable order: of equal numbers the first comes first, and two stages choose what one stage chooses."""

import pytest
import torch

from bifocals.predict import top_pairs
from bifocals.structures import stable_top


def plain_top(values: list[float], k: int) -> list[int]:
    return sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]


@pytest.mark.parametrize("k", [1, 7, 50])
@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_equal_numbers_keep_their_order(k: int, levels: int) -> None:
    values = torch.randint(levels, (3, 50)).float() - levels // 2
    assert stable_top(values, k).tolist() == [plain_top(row.tolist(), k) for row in values]


def test_zeros_of_both_signs_are_equal_and_infinities_are_ordered() -> None:
    values = torch.tensor([0.0, -0.0, -torch.inf, 0.0, torch.inf, -1e-30, 1e-30, torch.inf])
    assert stable_top(values, 8).tolist() == [4, 7, 6, 0, 1, 3, 5, 2]


def test_bfloat16_is_full_of_equal_numbers() -> None:
    values = torch.randn(4, 2000).to(torch.bfloat16)
    assert stable_top(values, 300).tolist() == [plain_top(row.tolist(), 300) for row in values]


@pytest.mark.parametrize(("priors", "classes", "k"), [(40, 6, 10), (40, 6, 100), (40, 6, 240), (40, 1, 7), (5, 3, 999)])
@pytest.mark.parametrize("levels", [3, 30, 100000])
def test_two_stages_choose_what_a_flat_sort_chooses(priors: int, classes: int, k: int, levels: int) -> None:
    logits = torch.randint(levels, (2, priors, classes)).float()
    prior, label, logit = top_pairs(logits, k)
    for image in range(2):
        flat = logits[image].flatten()
        expected = plain_top(flat.tolist(), k)
        assert (prior[image] * classes + label[image]).tolist() == expected
        assert logit[image].tolist() == flat[expected].tolist()
