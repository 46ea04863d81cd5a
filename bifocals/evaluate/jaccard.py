"""The Jaccard index of CrowdHuman: how well the sets of detections and of objects agree, image by image.

Letters: I images, D detections, G objects that count, E pairs.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from .crowd_overlaps import CrowdOverlaps

SCORES = 0.1 * np.arange(10)
"""The score thresholds that the index is the best of."""


def jaccard_index(overlaps: CrowdOverlaps) -> float:
    """The best over the score thresholds 0, .1 ... .9 of the mean over images of |M| / (|D| + |G| - |M|).

    M: a largest set of pairs of one detection and one object each, of IoU at least `match` (a maximum matching, not the
    greedy one of AP). D: the detections with a score above the threshold. G: the objects that are not ignored. What
    has no partner in M and lies in an ignored region with more than `match` of its own area is in neither set.

    As in CrowdHuman's evaluation, and unlike AP, an IoU of exactly `match` is enough, and images where neither set has
    anything are left out of the mean. Where several matchings are largest, the benchmark takes the one that scipy
    finds for the detections in the order they are given in, and so does this; where ignored regions cover some of them
    the choice moves the number a little (.0005 on the recorded case). NaN where no threshold leaves an image to look
    at, and for a set without objects.
    """
    if overlaps.num_objects == 0:
        return math.nan
    means = [_at_threshold(overlaps, threshold) for threshold in SCORES]
    real = [value for value in means if not math.isnan(value)]
    return max(real, default=math.nan)


def _at_threshold(overlaps: CrowdOverlaps, threshold: float) -> float:
    """The mean of the images at one score threshold, NaN where there is none."""
    num_images = overlaps.num_images
    kept = overlaps.scores > threshold
    detection_matched, object_matched = _largest_matching(overlaps, kept)
    detections = kept & (detection_matched | ~overlaps.detection_ignored)
    objects = object_matched | ~overlaps.object_ignored
    # [I] how many of each image.
    matched = np.bincount(overlaps.object_image[object_matched], minlength=num_images)
    union = np.bincount(overlaps.detection_image[detections], minlength=num_images)
    union += np.bincount(overlaps.object_image[objects], minlength=num_images) - matched
    looked_at = union > 0
    return float((matched[looked_at] / union[looked_at]).mean()) if looked_at.any() else math.nan


def _largest_matching(overlaps: CrowdOverlaps, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which detections and objects are matched: [D], [G]. No pair spans two images, so one call serves them all."""
    detection_matched = np.zeros(len(overlaps.scores), dtype=bool)
    object_matched = np.zeros(overlaps.num_objects, dtype=bool)
    pairs = np.flatnonzero(kept[overlaps.rows])
    place = np.empty_like(overlaps.given)
    place[overlaps.given] = np.arange(len(place))
    places, rows = np.unique(place[overlaps.rows[pairs]], return_inverse=True)  # detections with an object in reach
    edges = csr_matrix((np.ones(len(pairs), dtype=np.int8), (rows, overlaps.columns[pairs])),
                       shape=(len(places), overlaps.num_objects))
    edges.sort_indices()
    partner = maximum_bipartite_matching(edges, perm_type="column")
    detection_matched[overlaps.given[places[partner >= 0]]] = True
    object_matched[partner[partner >= 0]] = True
    return detection_matched, object_matched
