"""The numbers that Sabour, Cao, Faghri and Fleet publish (ICLR 2016), delta 10.

These are all that are kept here; where a number is not among them, tables have a dash.
"""

DELTA = 10.0

RATIO = {"fc7": 0.12, "pool5": 0.40, "conv3": 0.59, "conv2": 0.66}
"""Mean d(a, g) / d(s, g) of feature-opt, trained CaffeNet."""

LINEAR_RATIO = {"fc7": 0.88}
"""The same of feature-linear."""

TAKES_LABEL = 95.0
"""Percent of CaffeNet's adversarials of fc7 that take the guide's label."""

TABLE_1 = {
    "caffenet": (71, 95, -5.98),
    "alexnet": (72, 97, -5.64),
    "googlenet": (87, 100, -1.94),
    "vgg_cnn_s": (84, 100, -3.34),
    "places205_alexnet": (91, 100, -1.24),
    "places_hybrid": (85, 100, -1.25),
}
"""Percent with all 3 nearest neighbours in common, with two or more; median delta r3."""

TABLE_2 = {
    "feature-opt": {"fc7": (7, 12), "conv5": (0, 33), "conv3": (2, 60), "conv1": (0, 78)},
    "label-opt": {"fc7": (13, 39), "conv5": (0, 70), "conv3": (0, 85), "conv1": (0, 94)},
}
"""Delta S and I/U with the source, in percent, trained CaffeNet."""

DIMENSIONS = {
    "conv1": 290400,
    "pool1": 69984,
    "norm1": 69984,
    "conv2": 186624,
    "pool2": 43264,
    "norm2": 43264,
    "conv3": 64896,
    "conv4": 64896,
    "conv5": 43264,
    "pool5": 9216,
    "fc6": 4096,
    "fc7": 4096,
    "fc8": 1000,
    "prob": 1000,
}
"""Table S1: units of CaffeNet's layers."""
