"""Walkers: molecular dynamics that looks for structures worth a label, and knows when to stop."""
