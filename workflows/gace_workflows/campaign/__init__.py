"""A campaign: its file, its folder, its plan, and the command that carries it out."""
