"""The matching by price: what an object's row is worth, and that leaving pairs out changes nothing."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from bifocals.assign import MinCost
from bifocals.assign.hungarian import match_rows, object_prices
from bifocals.check.scene import scene_output, scene_target


def total(cost: torch.Tensor) -> float:
    row, column = linear_sum_assignment(cost.numpy())
    return float(cost[row, column].sum())


def test_prices_by_hand():
    # Two objects like row 0 (costs 1 and 0), row 1 costs 3 and 9. Object 1 has row 0, object 0 pays 3 for row 1.
    cost = torch.tensor([[1.0, 0.0], [3.0, 9.0]], dtype=torch.float64)
    row, gt = match_rows(cost)
    assert dict(zip(gt.tolist(), row.tolist(), strict=True)) == {0: 1, 1: 0}
    # A further row for object 1 is worth up to 2: then object 0 takes row 0 for 1 in place of 3.
    assert object_prices(cost, row, gt).tolist() == [3.0, 2.0]


@pytest.mark.parametrize("seed", range(20))
def test_a_further_row_matters_below_the_price_and_only_there(seed: int):
    draw = torch.Generator().manual_seed(seed)
    cost = torch.rand(9, 5, generator=draw, dtype=torch.float64)
    cost[:, 1] = cost[:, 0] + 0.01 * torch.rand(9, generator=draw, dtype=torch.float64)  # two who want the same
    row, gt = match_rows(cost)
    price = object_prices(cost, row, gt)
    best = total(cost)
    dear = torch.full((1, 5), 99.0, dtype=torch.float64)
    for g in range(5):
        for offset, matters in ((-1e-6, True), (1e-6, False)):
            further = dear.clone()
            further[0, g] = price[g] + offset
            assert (total(torch.cat([cost, further])) < best - 1e-9) == matters
    assert total(torch.cat([cost, price[None].repeat(5, 1)])) == pytest.approx(best)  # all at once change nothing


@pytest.mark.parametrize("num_objects", [1, 3, 12, 60, 400])
@pytest.mark.parametrize("sharpness", [0.0, 1.0, 4.0])
def test_min_cost_is_the_matching_of_the_full_matrix(num_objects: int, sharpness: float):
    # Sharpness 0: an untrained head, all scores equal. 400 objects: more than the 266 priors.
    output, target = scene_output(1, seed=num_objects), scene_target(num_objects, seed=num_objects)
    prediction = output.prediction(0)
    prediction = type(prediction)(prediction.logits * sharpness, prediction.boxes, prediction.deltas)
    full = MinCost().cost_terms(target, prediction).sum(0).double()
    match = MinCost()(output.priors, target, prediction)
    assert len(match.prior) == min(num_objects, len(output.priors)) == len(set(match.prior.tolist()))
    assert float(full[match.prior, match.gt].sum()) == pytest.approx(total(full), rel=1e-6)
    cheapest = MinCost(solver="argmin")(output.priors, target, prediction)
    assert torch.equal(full[cheapest.prior, cheapest.gt], full.min(dim=0).values[cheapest.gt])


def test_objects_that_all_want_the_same_rows():
    output, target = scene_output(1), scene_target(40)
    one_place = type(target)(target.boxes[:1].expand(40, 4), target.labels[:1].expand(40), target.crowd,
                             target.size_hw, target.original_hw)
    full = MinCost().cost_terms(one_place, output.prediction(0)).sum(0).double()
    match = MinCost()(output.priors, one_place, output.prediction(0))
    assert float(full[match.prior, match.gt].sum()) == pytest.approx(total(full), rel=1e-6)
    assert len(set(match.prior.tolist())) == 40
