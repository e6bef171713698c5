"""Selection: from explored candidates to the structures worth a label, each with a reason."""
