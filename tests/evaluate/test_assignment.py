"""Who takes what of one image: pairs that are known, extras, weights, and that looking changes nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest
import torch

from bifocals.assign import ATSS, EATSS, FCOS, POTO, Bags, MaxIoU
from bifocals.evaluate import RIVALS, Choice, ImageAssignment, Rival, inspect_assignment
from bifocals.evaluate.rivals import describe, places_of, priors_for, same_places
from bifocals.losses import HCRAC, HCRAR, Focal, Initial
from bifocals.objective import DenseBranch, Objective
from bifocals.structures import Anchors, Match, Matched, Matches, Prediction, Priors, Target
from tests.evaluate.looked_at import Still, anchored, hcral_objective, picture, points, scene, target


def looked(
    network: Still, objective: Objective, what: Target, names: tuple[str, ...] = (), **options
) -> ImageAssignment:
    rivals = {name: RIVALS[name]() for name in names}
    return inspect_assignment(network, objective, picture(), what, output="one2many", rivals=rivals, **options)


def pairs(match: Match | Choice) -> set[tuple[int, int]]:
    match = match.match if isinstance(match, Choice) else match
    return set(zip(match.prior.tolist(), match.gt.tolist(), strict=True))


@dataclass(frozen=True)
class Known:
    """Takes the pairs that it is made with."""

    prior: tuple[int, ...]
    gt: tuple[int, ...]

    def __call__(self, priors: Priors, target: Target, prediction: Prediction) -> Match:
        return Match(torch.tensor(self.prior), torch.tensor(self.gt))


# What is reported


def test_known_pairs_by_hand():
    network = Still(points())
    # Level 0 has 12 x 16 points: number 17 is the second of the second row. 192 is the first of level 1.
    objective = Objective({"one2many": DenseBranch(Known((17, 192, 0), (0, 0, 2)), {"cls": Focal()})})
    found = looked(network, objective, scene())
    (choice,) = found.choices
    record = found.to_json(("cat", "dog"))
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert (record["image_id"], record["size_hw"]) == (7, [96, 128])
    assert record["objects"][1] == {"object": 1, "box": [40, 24, 120, 90], "label": 1, "class": "dog"}
    (own,) = record["assigners"]
    assert own["priors"]["level_sizes"] == [192, 48, 12, 4, 1] and own["priors"]["strides"] == [8, 16, 32, 64, 128]
    first, second, third = own["pairs"]
    assert (first["object"], first["prior"], first["point"], first["level"], first["stride"]) == (0, 17, [12, 12], 0, 8)
    assert (second["point"], second["level"], second["stride"]) == ([8, 8], 1, 16)
    assert first["anchor"] is None and first["is_extra"] is False
    assert own["counts"] == {"pairs": 3, "extras": 0, "per_object": [2, 0, 1], "per_level": [2, 1, 0, 0, 0]}
    assert own["objects_without"] == [1] == choice.without(3)
    output = network.output
    assert third["score"] == pytest.approx(float(output.logits[0, 0, 1].sigmoid()), rel=1e-5)
    low, high = output.boxes[0, 17, :2].clamp(min=8), torch.minimum(output.boxes[0, 17, 2:], torch.tensor([76.0, 80]))
    both = float((high - low).clamp(min=0).prod())
    union = float((output.boxes[0, 17, 2:] - output.boxes[0, 17, :2]).prod()) + 68 * 72 - both
    assert first["iou"] == pytest.approx(both / union, rel=1e-5)
    assert first["weights"]["cls"]["focal"] == pytest.approx(0.25 * (1 - first["score"]) ** 2, rel=1e-4)


def test_fcos_by_hand():
    # Inside (0, 0, 20, 20) lie four points of level 0, and one, (8, 8), of level 1, where it is too small.
    found = looked(Still(points()), Objective({"one2many": DenseBranch(FCOS(), {"cls": Focal()})}),
                   target((0, 0, 20, 20)))
    assert pairs(found.choices[0]) == {(0, 0), (1, 0), (16, 0), (17, 0)}
    assert found.choices[0].title == "one2many: FCOS"


@pytest.mark.parametrize("priors", [anchored(), points(), anchored(Anchors())], ids=["square", "points", "nine"])
def test_extras_are_eatss_without_atss(priors: Priors):
    found = looked(Still(priors), hcral_objective(), scene(), ("atss", "eatss"), own=False)
    atss, eatss = found.choices
    assert pairs(atss) < pairs(eatss) and len(atss) > 3
    extra = {pair for pair, is_extra in zip(zip(eatss.match.prior.tolist(), eatss.match.gt.tolist(), strict=True),
                                            eatss.extra.tolist(), strict=True) if is_extra}
    assert extra == pairs(eatss) - pairs(atss) and 1 <= len(extra) <= 9
    assert not atss.extra.any()
    record = found.to_json(("a", "b"))["assigners"][1]
    assert sum(pair["is_extra"] for pair in record["pairs"]) == record["counts"]["extras"] == len(extra)
    assert all(pair["anchor"] is not None for pair in record["pairs"])


def test_rivals_take_what_they_take_elsewhere():
    network, what = Still(anchored()), scene()
    found = looked(network, hcral_objective(), what, tuple(RIVALS))
    by_name = {choice.name: choice for choice in found.choices}
    prediction, priors = network.output.prediction(0), anchored()
    for name, assigner in {"atss": ATSS(), "eatss": EATSS(), "fcos": FCOS(), "poto": POTO(), "max_iou": MaxIoU(),
                           "bags": Bags()}.items():
        assert pairs(by_name[name]) == pairs(assigner(priors, what, prediction)), name
    assert len(by_name["poto"]) == len(by_name["min_cost"]) == 3
    assert found.left_out == () and [c.own for c in found.choices] == [True] + [False] * len(RIVALS)


def test_a_rival_that_takes_what_a_branch_takes_is_left_out_where_asked():
    network, objective = Still(anchored()), hcral_objective()
    found = looked(network, objective, scene(), ("atss", "eatss"), drop_equal=True)
    assert [c.name for c in found.choices] == ["one2many", "atss"]
    assert found.left_out == ("eatss: it takes what one2many: EATSS takes",)
    assert [c.name for c in looked(network, objective, scene(), ("eatss",)).choices] == ["one2many", "eatss"]


# Priors


def test_priors_made_at_the_points_of_the_pyramid():
    own = points()
    square, _ = priors_for("square", own)
    assert same_places(square, own) and square.boxes is not None
    assert square.boxes[17].tolist() == [12 - 32, 12 - 32, 12 + 32, 12 + 32]
    nine, words = priors_for("anchors", own)
    assert len(nine) == 9 * len(own) and "nine anchors" in words and not same_places(nine, own)
    assert torch.equal(nine.points[9 * 17], own.points[17])

    many = anchored(Anchors())
    assert len(many) == 9 * len(own)
    single, _ = priors_for("points", many)
    assert same_places(single, places_of(many)) and single.level_sizes == own.level_sizes and single.boxes is None
    assert priors_for("anchors", many)[0] is many and priors_for("own", many)[0] is many
    # Anchors of offset 0: the last two levels have a point at (0, 0) each, and both stay.
    assert places_of(anchored()).level_sizes == own.level_sizes
    assert priors_for("square", anchored())[1] == "the network's own"
    flat = anchored(Anchors(8.0, 1, (0.5,)))
    assert priors_for("square", flat)[0] is not flat
    with pytest.raises(ValueError, match="own, points, square and anchors"):
        priors_for("circles", own)  # type: ignore[arg-type]


def test_predictions_belong_to_priors_at_the_same_places_alone():
    found = looked(Still(anchored(Anchors())), hcral_objective(), scene(), ("fcos", "atss", "poto"), own=False)
    fcos, atss, poto = found.choices
    assert fcos.score is None and atss.iou is None and atss.factors == {}
    assert poto.score is not None and poto.factors
    record = found.to_json(("a", "b"))["assigners"][0]["pairs"][0]
    assert record["score"] is None and record["iou"] is None and "weights" not in record
    found = looked(Still(points()), hcral_objective(), scene(), ("atss",), own=False)
    assert found.choices[0].score is not None and "cls" in found.choices[0].factors


# Weights and state


@pytest.mark.parametrize("copies", [1, 4])
def test_weights_are_those_of_the_losses(copies: int):
    network, objective = Still(anchored()), hcral_objective()
    for _ in range(2):  # a state to read
        objective(network(picture()[None]), [scene()])
    choice = looked(network, objective, scene(), copies=copies).choices[0]
    branch = objective.eval().branches["one2many"]
    assert isinstance(branch, DenseBranch) and isinstance(branch.losses["cls"], HCRAC)
    matched = Matched(network.output, [scene()], Matches.stack([choice.match], len(anchored())))
    for name in ("cls", "box"):
        told = branch.losses[name].pair_factors(matched, copies)
        for factor, values in told.factors.items():
            torch.testing.assert_close(choice.factors[name].factors[factor], values)
    assert set(choice.factors) == {"cls", "box"}  # Centerness has no weights
    torch.testing.assert_close(choice.class_weight(), choice.factors["cls"].weight)
    record = looked(network, objective, scene(), copies=copies).to_json(("a", "b"))["assigners"][0]["pairs"][0]
    assert set(record["weights"]["cls"]) == {"beta", "omega", "RCI_cls", "CF_cls", "weight"}
    assert set(record["weights"]["box"]) == {"CF_reg", "r", "u", "RCI_reg", "weight"}
    assert record["weights"]["cls"]["omega"] == pytest.approx(record["iou"], rel=1e-5)


def test_looking_changes_nothing():
    network, objective = Still(anchored()), hcral_objective()
    objective(network(picture()[None]), [scene()])
    network.train()
    network.norm.eval()
    objective.train()
    before = {name: value.clone() for part in (network, objective) for name, value in part.state_dict().items()}
    modes = [part.training for part in (*network.modules(), *objective.modules())]
    random = torch.get_rng_state()
    first, second = (looked(network, objective, scene(), tuple(RIVALS)).to_json(("a", "b")) for _ in range(2))
    assert first == second
    after = {name: value for part in (network, objective) for name, value in part.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert modes == [part.training for part in (*network.modules(), *objective.modules())]
    assert torch.equal(random, torch.get_rng_state())


# Images and parts that are hard


def test_an_empty_image():
    found = looked(Still(anchored()), hcral_objective(), target(), tuple(RIVALS))
    assert len(found.choices) == 1 + len(RIVALS) and found.left_out == ()
    assert all(len(choice) == 0 for choice in found.choices)
    record = found.to_json(("a", "b"))
    assert record["objects"] == [] and all(a["pairs"] == [] for a in record["assigners"])


def test_crowd_regions_are_no_objects():
    crowded = target((8, 8, 76, 80), (60, 2, 126, 40), (40, 24, 120, 90), (100, 4, 116, 18), labels=[0, 0, 1, 1],
                     crowd=[1])
    network = Still(anchored())
    found, plain = (looked(network, hcral_objective(), what, ("fcos",)) for what in (crowded, scene()))
    assert [pairs(c) for c in found.choices] == [pairs(c) for c in plain.choices]
    record = found.to_json(("a", "b"))
    assert len(record["objects"]) == 3 and record["crowd_regions"] == [[60, 2, 126, 40]]
    assert plain.to_json(("a", "b"))["crowd_regions"] == []
    ignoring = Rival(MaxIoU(crowd_overlap=0.5), "anchors")
    shown = inspect_assignment(network, hcral_objective(), picture(), crowded, output="one2many", own=False,
                               rivals={"mine": ignoring})
    assert shown.choices[0].match.ignore is not None and shown.choices[0].match.ignore.any()


def test_what_does_not_suit_is_left_out_and_named():
    network = Still(points(3))
    losses = {"cls": Focal(), "box": HCRAR(weight="centerness"), "initial": Initial(HCRAR())}
    objective = Objective({"one2many": DenseBranch(Known((0,), (0,)), losses)})
    found = looked(network, objective, scene(), ("fcos", "poto"))
    assert [c.name for c in found.choices] == ["one2many", "poto"]
    assert any("fcos: FCOS has ranges for 5 levels" in line for line in found.left_out)
    assert any("weights of one2many/initial: DenseOutput.before_refinement" in line for line in found.left_out)
    assert set(found.choices[0].factors) == {"cls", "box"}
    assert any(line.startswith("branch rpn") for line in looked(
        network, Objective({"rpn": DenseBranch(Known((0,), (0,)), {"cls": Focal()}, source="other")}), scene()
    ).left_out)
    with pytest.raises(ValueError, match="an output of \\['one2many'\\], got 'one2one'"):
        inspect_assignment(network, objective, picture(), scene(), output="one2one")


def test_a_branch_of_one_class_and_one_before_the_filter():
    network = Still(points(), num_classes=1)
    objective = Objective({"rpn": DenseBranch(FCOS(), {"cls": Focal()}, source="one2many", class_agnostic=True)})
    found = looked(network, objective, scene(), ("poto",))
    assert found.target.labels.tolist() == [0, 1, 1] and [len(c) > 0 for c in found.choices] == [True, True]

    network = Still(points())
    network.output = replace(network.output, unfiltered=network.output.logits - 3)
    after, before = (looked(network, Objective({"one2many": DenseBranch(FCOS(), {"cls": Focal()}, filtered=filtered)}),
                            scene()).choices[0] for filtered in (True, False))
    torch.testing.assert_close(before.score.logit(), after.score.logit() - 3, rtol=1e-4, atol=1e-4)


def test_words_for_an_assigner():
    assert describe(FCOS()) == "FCOS" and describe(FCOS(center_radius=1.5)) == "FCOS(center_radius=1.5)"
    assert describe(EATSS(2, atss=ATSS(k=5))) == "EATSS(extras=2, atss=ATSS(k=5))"
    assert describe(Known((1,), (0,))) == "Known(prior=(1,), gt=(0,))" and describe(pairs) == "pairs"
