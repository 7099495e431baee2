"""Caffe's networks in Flax NNX, and how to make any function of images a network."""
