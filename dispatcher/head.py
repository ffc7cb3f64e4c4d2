"""Which type a vector belongs to, and how far to believe it: learned from a few examples a type, in numpy alone.

The type is chosen by multinomial logistic regression, which did best from 5 to 100 examples a type where centroids,
nearest neighbours, ridge regression and discriminant analysis were tried beside it. Its own probability says "rather
this type than that" and nothing of texts unlike every type; the likeness to the chosen type's nearest examples says
that. The confidence is the product of the two: the probability, calibrated on examples and on whole types that were
held out, and how usual the likeness would be among the type's own examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp

from dispatcher.blas import Floats, Labels, Matrix, np

NEAREST = 3  # examples whose mean likeness tells whether a text is at home in a type
_BIAS = np.float32(0.3)
_RIDGE = 0.1
_STEPS = 20  # 60 find half a point more among 150 types, and nothing among ten
_FOLDS = 3
_CALIBRATION_ROWS = 1000  # more examples sharpen the calibration little and cost it much
_OWN_ROWS = 200  # examples a type by which its usual likeness is told
_RIGHT_TO_WRONG = 5.0  # what the two weigh in the calibration: keeps about 95% of what is in scope above 0.35
_SHARPNESS = 3.0
# Intercept and slope over the log probability where little is known: about what every data set measured came to.
_PRIOR = np.array([2.5, 2.0])
_PRIOR_WEIGHT = 4.0


@dataclass(frozen=True, slots=True)
class Guess:
    """``label`` of the likeliest type, ``confidence`` from 0 to 1, ``nearest`` the row of its most similar example."""

    label: int
    confidence: float
    nearest: int


@dataclass(frozen=True, slots=True)
class Head:
    """``examples`` lie sorted by label; those of label k are rows ``starts[k]`` to ``starts[k + 1]``.

    ``calibration``: intercept and slope over the logarithm of the chosen type's probability. ``typical`` and ``low``
    are the median and the 5% quantile of the examples' likeness to their own type.
    """

    examples: Matrix
    starts: tuple[int, ...]
    centre: Matrix
    weights: Matrix
    calibration: tuple[float, float]
    typical: float
    low: float

    def guess(self, vectors: Matrix) -> list[Guess]:
        labels, logs = _likeliest(self.weights, self.centre, vectors)
        return [self._guess(*row) for row in zip(vectors, labels.tolist(), logs.tolist(), strict=True)]

    def _guess(self, vector: Matrix, label: int, log: float) -> Guess:
        start, stop = self.starts[label], self.starts[label + 1]
        likenesses = self.examples[start:stop] @ vector
        intercept, slope = self.calibration
        right = _sigmoid(intercept + slope * log)
        beyond = (_mean_of_largest(likenesses) - self.typical) / (self.typical - self.low)
        # One half for an example at the low end of its own type.
        at_home = _sigmoid(_SHARPNESS * (beyond + 1.0))
        return Guess(label, right * at_home if vector.any() else 0.0, start + int(likenesses.argmax()))


def fit(vectors: Matrix, labels: Sequence[int]) -> Head:
    """Learn from examples sorted by label, at least one of each from 0 on. Deterministic."""
    order = np.asarray(labels, dtype=np.intp)
    starts = (0, *(np.flatnonzero(np.diff(order)) + 1).tolist(), len(order))
    own = _own_likeness(vectors, starts)
    typical = float(np.median(own))
    low = min(float(np.quantile(own, 0.05)), typical - 0.02)
    centre, weights = _regression(vectors, order)
    return Head(vectors, starts, centre, weights, _calibrated(vectors, order), typical, low)


def _regression(vectors: Matrix, labels: Labels) -> tuple[Matrix, Matrix]:
    """Multinomial logistic regression, each type weighing the same: Nesterov's steps over Böhning's fixed curvature."""
    centre = vectors.mean(axis=0)
    axes, rows = _compressed(_with_bias(vectors, centre))
    kinds = int(labels.max()) + 1
    share = (len(labels) / kinds / np.bincount(labels, minlength=kinds)[labels]).astype(np.float32)[:, None]
    truth = np.eye(kinds, dtype=np.float32)[labels]
    curvature = 0.5 * (rows * share).T @ rows + _RIDGE * np.eye(rows.shape[1], dtype=np.float32)
    inverse = np.linalg.inv(curvature.astype(np.float64)).astype(np.float32)
    weights = ahead = np.zeros((rows.shape[1], kinds), dtype=np.float32)
    pace = 1.0
    for _ in range(_STEPS):
        gradient = rows.T @ ((_softmax(rows @ ahead) - truth) * share) + _RIDGE * ahead
        moved = ahead - inverse @ gradient
        next_pace = (1 + (1 + 4 * pace * pace) ** 0.5) / 2
        ahead = moved + np.float32((pace - 1) / next_pace) * (moved - weights)
        weights, pace = moved, next_pace
    return centre, axes @ weights


def _compressed(rows: Matrix) -> tuple[Matrix, Matrix]:
    """The same rows in as many coordinates as there are rows, where that is fewer; and the axes they are along."""
    if len(rows) >= rows.shape[1]:
        return np.eye(rows.shape[1], dtype=np.float32), rows
    axes, coordinates = np.linalg.qr(rows.T)
    return axes, np.ascontiguousarray(coordinates.T)


def _calibrated(vectors: Matrix, labels: Labels) -> tuple[float, float]:
    """What a probability means. A fold holds out a third of the types, and a third of the other types' examples."""
    place = np.arange(len(labels)) - np.searchsorted(labels, labels)
    few = place < max(6, _CALIBRATION_ROWS // (int(labels.max()) + 1))
    vectors, labels, place = vectors[few], labels[few], place[few]
    logs, right = [np.empty(0, dtype=np.float32)], [np.empty(0, dtype=np.bool_)]
    for fold in range(_FOLDS):
        held = (labels % _FOLDS == fold) | (place % _FOLDS == fold)
        if held.all():
            continue
        known, seen = np.unique(labels[~held], return_inverse=True)
        centre, weights = _regression(vectors[~held], seen)
        guessed, log = _likeliest(weights, centre, vectors[held])
        logs.append(log)
        right.append(known[guessed] == labels[held])
    return _line(np.concatenate(logs).astype(np.float64), np.concatenate(right).astype(np.float64))


def _line(logs: Floats, right: Floats) -> tuple[float, float]:
    """Logistic regression of one feature from a prior that counts as a few examples, in steps that cannot overshoot."""
    line = _PRIOR.copy()
    if right.size and 0 < right.sum() < right.size:
        features = np.stack([np.ones_like(logs), logs], axis=1)
        share = np.where(right > 0, _RIGHT_TO_WRONG / right.sum(), 1 / (1 - right).sum())
        share *= len(right) / (1 + _RIGHT_TO_WRONG)
        curvature = 0.25 * (features * share[:, None]).T @ features + _PRIOR_WEIGHT * np.eye(2)
        for _ in range(100):
            chance = 1 / (1 + np.exp(-np.clip(features @ line, -30, 30)))
            gradient = features.T @ ((chance - right) * share) + _PRIOR_WEIGHT * (line - _PRIOR)
            line = line - np.linalg.solve(curvature, gradient)
    return float(line[0]), max(float(line[1]), 0.0)


def _likeliest(weights: Matrix, centre: Matrix, vectors: Matrix) -> tuple[Labels, Matrix]:
    """For each row the likeliest label and the logarithm of its probability."""
    chances = _softmax(_with_bias(vectors, centre) @ weights)
    return chances.argmax(axis=1), np.log(np.maximum(chances.max(axis=1, initial=1e-9), 1e-9))


def _own_likeness(vectors: Matrix, starts: Sequence[int]) -> Floats:
    """Likeness of examples to the nearest others of their type; of a large type, of a part of them."""
    found = []
    for start, stop in pairwise(starts):
        for at in range(start, stop, 1 + (stop - start) // _OWN_ROWS):
            others = np.delete(vectors[start:stop] @ vectors[at], at - start)
            found += [_mean_of_largest(others)] if len(others) else []
    return np.array(found or [0.5])


def _mean_of_largest(values: Matrix) -> float:
    if len(values) > NEAREST:
        values = np.partition(values, -NEAREST)[-NEAREST:]
    return float(values.mean()) if len(values) else 0.0


def _with_bias(vectors: Matrix, centre: Matrix) -> Matrix:
    return np.concatenate([vectors - centre, np.full((len(vectors), 1), _BIAS)], axis=1)


def _softmax(scores: Matrix) -> Matrix:
    scores = np.exp(scores - scores.max(axis=1, keepdims=True, initial=-1e30))
    return np.asarray(scores / scores.sum(axis=1, keepdims=True))


def _sigmoid(value: float) -> float:
    return 1 / (1 + exp(-min(max(value, -30.0), 30.0)))
