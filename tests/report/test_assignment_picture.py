"""The picture of an assignment: markers where the priors are, in the colors of their objects."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
import torch
from PIL import Image

from bifocals.evaluate import RIVALS, Choice, ImageAssignment, inspect_assignment
from bifocals.losses import PairFactors
from bifocals.predict import class_color
from bifocals.report import assignment_picture
from bifocals.report.assignment_picture import counted, window_of
from bifocals.report.closeup import columns_of, focus_of, shown_pairs
from bifocals.report.color_scale import ColorScale, mix, number, ramp
from bifocals.report.markers import petals, radius_of
from bifocals.report.page import fitted, wrapped
from bifocals.report.panel import Panel, View, weight_fills
from bifocals.structures import Anchors, Match
from tests.evaluate.looked_at import Still, anchored, hcral_objective, picture, points, scene, target

WHITE = (255, 255, 255)
VIEW = View((0.0, 0.0, 128.0, 96.0), 4.0)


def choice_of(*pairs: tuple[int, int], extra: tuple[int, ...] = (), weights: tuple[float, ...] = ()) -> Choice:
    """Pairs of a point and an object, on points; weights of a loss `cls`."""
    priors = points()
    match = Match(torch.tensor([p for p, _ in pairs], dtype=torch.int64),
                  torch.tensor([g for _, g in pairs], dtype=torch.int64))
    flags = torch.zeros(len(pairs), dtype=torch.bool)
    flags[list(extra)] = True
    factors = {"cls": PairFactors({"beta": torch.tensor(weights)})} if weights else {}
    return Choice("known", True, "Known", "one2many", priors, "the network's own", match, flags, factors=factors)


def look_of(*choices: Choice) -> ImageAssignment:
    return ImageAssignment(picture(), scene(), choices)


def drawn(choice: Choice, **options) -> Image.Image:
    panel = Panel(look_of(choice), VIEW)
    panel.pairs(choice, weight_fills(choice), outlined=True, finest=4.5, **options)
    return panel.done()


def at(image: Image.Image, x: float, y: float) -> tuple[int, int, int]:
    """The pixel of a place in the scene."""
    return image.getpixel((round(x * VIEW.scale), round(y * VIEW.scale)))


def count(image: Image.Image, color: tuple[int, int, int]) -> int:
    return next((n for n, c in image.getcolors(1 << 24) if c == color), 0)


def test_markers_have_the_color_of_their_object_where_the_priors_are():
    # Points 17 and 100 of level 0 stand at (12, 12) and (36, 52), the first of level 1 at (8, 8) + (96, 64).
    image = drawn(choice_of((17, 0), (100, 1), (192 + 4 * 8 + 6, 2)))
    assert (at(image, 12, 12), at(image, 36, 52), at(image, 104, 72)) == tuple(class_color(k) for k in range(3))
    around = {image.getpixel((48 + x, 48 + y)) for x in range(-2, 3) for y in range(-2, 3)}
    assert around == {class_color(0)}
    assert count(image, class_color(3)) == 0


def test_coarse_levels_are_larger_and_below():
    sizes = [count(drawn(choice_of((start, 0))), class_color(0)) for start in points().level_starts[:3]]
    assert sizes[0] < sizes[1] and sizes[0] < sizes[2]
    assert [radius_of(k, 4.5) for k in range(4)] == sorted(radius_of(k, 4.5) for k in range(4))
    # A square at (0, 0) anchor by anchor: the fine one of object 1 lies on the coarse one of object 0.
    priors = anchored()
    both = replace(choice_of((192, 0), (0, 1)), priors=priors)
    image = drawn(both)
    assert at(image, 0, 0) == class_color(1) and count(image, class_color(0)) > 0


def test_extras_have_a_ring():
    plain, extra = (drawn(choice_of((17, 0), extra=e)) for e in ((), (0,)))
    assert at(plain, 12, 12) == at(extra, 12, 12) == class_color(0)
    ring = (48 + 6, 48)  # beyond radius 4.5 and its edge
    assert plain.getpixel(ring) != WHITE and extra.getpixel(ring) == WHITE


def test_pairs_that_count_less_are_paler():
    image = drawn(choice_of((17, 0), (20, 0), (23, 0), weights=(0.0, 0.5, 1.0)))
    assert at(image, 12, 12) == WHITE and at(image, 60, 12) == class_color(0)
    assert at(image, 36, 12) == mix(WHITE, class_color(0), 0.5)
    # Weights that span much are told apart by logarithms, and 0 is white still.
    wide = weight_fills(choice_of((17, 0), (20, 0), (23, 0), (24, 0), weights=(0.0, 1.0, 10.0, 1000.0)))
    assert wide[0] == WHITE and wide[3] == class_color(0)
    assert wide[2] == mix(WHITE, class_color(0), 0.1 + 0.9 / 3)
    # All but equal weights look equal, and no weights at all like full ones.
    assert len(set(weight_fills(choice_of((17, 0), (20, 0), weights=(1.0, 1.0))))) == 1
    assert weight_fills(choice_of((17, 0))) == [class_color(0)]


def test_anchors_of_a_point_stand_around_it():
    priors = anchored(Anchors())
    shifts = petals(priors, list(range(18)), 5.0)
    assert shifts[:9] == shifts[9:] and len({(round(x, 6), round(y, 6)) for x, y in shifts}) == 9
    assert all(math.hypot(x, y) == pytest.approx(5) for x, y in shifts)
    assert petals(anchored(), [0, 5], 5.0) == [(0.0, 0.0)] * 2


def test_boxes_crowd_regions_and_objects_without_any_prior():
    found = look_of(choice_of((17, 0)))
    panel = Panel(found, VIEW)
    panel.objects(without=[1])
    image = panel.done()
    whole = Panel(found, VIEW)
    whole.objects()
    assert 0 < count(image, class_color(1)) < 0.8 * count(whole.done(), class_color(1))
    assert count(image, class_color(0)) == pytest.approx(count(whole.done(), class_color(0)), rel=0.02)
    crowd = replace(found, target=replace(found.target, crowd_boxes=torch.tensor([[60.0, 2, 126, 90]])))
    region = Panel(crowd, VIEW)
    region.objects()
    assert count(region.done(), (110, 110, 110)) > 0


def real_look(what=None, names=("atss", "fcos", "poto")) -> ImageAssignment:
    return inspect_assignment(Still(anchored()), hcral_objective(), picture(), scene() if what is None else what,
                              output="one2many", rivals={name: RIVALS[name]() for name in names})


def test_the_whole_picture():
    found = real_look()
    image = assignment_picture(found, ("cat", "dog"), heading=["a scene", "a network"])
    data = io.BytesIO()
    image.save(data, "PNG")
    with Image.open(data) as opened:
        assert opened.format == "PNG" and opened.size == image.size and 1200 <= image.width <= 1940
    for k in range(3):
        assert count(image, class_color(k)) > 200
    # A color of each part of the scale, from the panels of the factors and their bars.
    assert all(count(image, ramp(share)) > 0 for share in (0.0, 1.0))
    # Without what the losses tell there are neither these panels nor bars.
    silent = replace(found, choices=tuple(replace(c, factors={}) for c in found.choices))
    short = assignment_picture(silent, ("cat", "dog"))
    assert short.height < image.height and count(short, ramp(1.0)) == 0
    small = assignment_picture(found, ("cat", "dog"), panel=300)
    assert small.height < image.height


def test_an_empty_image_and_an_unknown_object():
    found = real_look(target())
    assert assignment_picture(found, ("cat", "dog")).width >= 1200
    with pytest.raises(ValueError, match="an object of 0 to 2, got 3"):
        assignment_picture(real_look(), ("cat", "dog"), focus=3)
    assert assignment_picture(real_look(), ("cat", "dog"), focus=2).width >= 1200
    nothing = ImageAssignment(picture(), scene(), (), ("own: nobody",))
    assert assignment_picture(nothing, ("cat", "dog")).width >= 1200


def test_panels_show_the_part_around_the_objects():
    # Object 2 of the scene stands alone in a corner: (100, 4, 116, 18) with 24 pixels around it, and cut to the image.
    alone = replace(look_of(), target=target((100, 4, 116, 18)), choices=(choice_of((13, 0)),))
    assert window_of(alone) == (76, 0, 128, 42)
    assert window_of(look_of(choice_of((13, 0)))) == (0, 0, 128, 96) == window_of(replace(alone, target=target(),
                                                                                     choices=()))
    assert counted(choice_of((13, 0), (100, 0)), 1, window_of(alone)).endswith("; 1 outside the part shown")
    image = assignment_picture(alone, ("cat", "dog"))
    assert image.height > 480 + 2 * 60 and count(image, class_color(0)) > 100
    without = replace(alone, choices=(choice_of(),))
    assert assignment_picture(without, ("cat", "dog"), focus=0).width >= 1200
    other = look_of(choice_of((17, 0), weights=(1.0,)))  # object 2 is asked for, and has no prior
    assert assignment_picture(other, ("cat", "dog"), focus=2).width >= 1200


def test_a_crowd_is_drawn_without_numbers():
    boxes = [(4.0 * k, 4.0 * j, 4.0 * k + 10, 4.0 * j + 10) for k in range(10) for j in range(10)]
    found = look_of(choice_of((17, 0)))
    crowd = replace(found, target=target(*boxes))
    panel = Panel(crowd, VIEW)
    panel.objects()
    assert panel.labels == []
    few = Panel(found, VIEW)
    few.objects()
    assert [text for _, text, _ in few.labels] == ["0", "1", "2"]


def test_the_object_shown_close():
    choice = choice_of((0, 0), (1, 1), (2, 1), (3, 2), (4, 2), (5, 2), extra=(1, 2),
                       weights=(1.0, 5.0, 6.0, 0.1, 0.3, 0.2))
    assert focus_of(choice, 3) == 1 and focus_of(replace(choice, extra=torch.zeros(6, dtype=torch.bool)), 3) == 2
    assert focus_of(choice_of(), 3) is None
    assert shown_pairs(choice, 2) == [4, 5, 3] and shown_pairs(choice, 1) == [2, 1]
    named = [(c.group, c.head) for c in columns_of(choice, [4, 5])]
    assert named == [("loss cls", "beta"), ("loss cls", "weight")]
    assert columns_of(choice, [4, 5])[0].values == pytest.approx([0.3, 0.2])
    heads = [c.head for c in columns_of(real_look().choices[0], [0])]
    assert heads == ["score", "IoU", "CF_cls", "beta", "omega", "RCI_cls", "weight", "RCI_reg", "CF_reg", "r", "u",
                     "weight"]


def test_color_scale():
    even, wide = ColorScale.of([1.0, 3.0, math.nan]), ColorScale.of([0.1, 1.0, 10.0])
    assert not even.log and even.place(2.0) == 0.5 and even.color(1.0) == ramp(0) and even.color(3.0) == ramp(1)
    assert wide.log and wide.place(1.0) == pytest.approx(0.5)
    assert not ColorScale.of([0.0, 100.0]).log and even.place(math.inf) is None
    same = ColorScale.of([0.2500, 0.2501])
    assert same.even and same.color(0.25) == same.color(0.2501) and ColorScale.of([]).place(0.5) == 0.5
    bar = even.bar(100, 5)
    assert bar.getpixel((0, 2)) == ramp(0) and bar.getpixel((99, 2)) == ramp(1)
    light = [0.299 * r + 0.587 * g + 0.114 * b for r, g, b in (ramp(k / 20) for k in range(21))]
    assert light == sorted(light)
    assert [number(v) for v in (0.0, 0.12345, 1234.5, 1e-5, 3e6, math.nan)] == ["0", "0.123", "1.23e+03", "1.0e-05",
                                                                                "3.0e+06", "-"]


def test_words_fit():
    from PIL import ImageFont

    font = ImageFont.load_default(size=14)
    lines = wrapped("one two three four five six seven", font, 100)
    assert len(lines) > 1 and " ".join(lines) == "one two three four five six seven"
    assert all(font.getlength(line) <= 100 for line in lines)
    assert fitted("short", font, 100) == "short" and font.getlength(fitted("long " * 40, font, 100)) <= 100
