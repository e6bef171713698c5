"""Pretraining: structures and labels of a cheap teacher, learnt before the real ones."""
