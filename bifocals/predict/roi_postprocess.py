"""From the output of a RoI head to the objects of each image.

Letters: R regions of interest (RoIs) of all images of a batch, C classes, N detections of an image, S candidates (a
candidate is a RoI and a class).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from bifocals.structures import Detections, RoIOutput, Target, stable_top

from .postprocess import Candidates, Postprocess, to_original


@dataclass(frozen=True)
class RoIPostprocess:
    """Decides which candidates of a RoI head are detections.

    1. A candidate stays if its softmax probability is above `score_threshold`; of an image the best `per_level` stay.
       (RoIs know no levels any more; at a threshold of .05 the default keeps all.)
    2. The box is the RoI moved by the deltas of the class, cut to the un-padded resized image and mapped to the
       original image.
    3. With `nms` a number: boxes without positive width and height are dropped, and of candidates of one class whose
       IoU is above `nms` the better one stays.
    4. The best `max_detections` are the result, best first; equal scores keep the order of RoI and class.
    5. From a network with masks, each gets the mask of its class.

    The fields and their bounds are those of `Postprocess`, and their names do the same on the command line.
    """

    score_threshold: float = 0.05
    per_level: int = 20_000
    max_detections: int = 100
    nms: float | None = 0.5

    def __post_init__(self) -> None:
        self._chooser()  # which has the same bounds

    @torch.no_grad()
    def __call__(self, output: RoIOutput, targets: Sequence[Target]) -> list[Detections]:
        """The detections of each image, in pixels of the original image, on the device of the output.

        Of the targets only the sizes are read.
        """
        if len(output.image) and int(output.image.max()) >= len(targets):
            raise ValueError(f"RoIPostprocess expected a target for each image, got {len(targets)} targets for RoIs of "
                             f"image {int(output.image.max())}; it reads the sizes of the image from the target.")
        found = [self.choose(self.candidates(output, i, target)) for i, target in enumerate(targets)]
        if output.mask_of is None:
            return found
        boxes = [d.boxes * d.boxes.new_tensor(t.scale_xyxy) for d, t in zip(found, targets, strict=True)]
        masks = output.mask_of(boxes, [d.labels for d in found])
        return [replace(d, masks=m) for d, m in zip(found, masks, strict=True)]

    def candidates(self, output: RoIOutput, image: int, target: Target) -> Candidates:
        """Steps 1 and 2 for one image of the batch, in the order of RoI and class."""
        mine = (output.image == image).nonzero()[:, 0]
        scores = output.logits[mine].float().softmax(dim=1)[:, :-1]  # [R of the image, C]
        row, label = (scores > self.score_threshold).nonzero().unbind(1)
        score = scores[row, label]
        if len(score) > self.per_level:
            best = stable_top(score, self.per_level).sort().values
            row, label, score = row[best], label[best], score[best]
        deltas = output.deltas[mine[row], label].float()
        boxes = output.coder.decode(output.rois[mine[row]], deltas)
        return Candidates(to_original(boxes, target), score, label, score)

    def choose(self, found: Candidates) -> Detections:
        """Steps 3 and 4 for the candidates of one image."""
        return self._chooser().choose(found)

    def _chooser(self) -> Postprocess:
        return Postprocess(self.score_threshold, self.per_level, self.max_detections, self.nms)
