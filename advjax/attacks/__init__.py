"""Objectives, boxes and starting points."""
