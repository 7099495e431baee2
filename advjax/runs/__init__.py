"""Runs of any number of pairs: durable, resumable, past one machine."""
