"""The drill: kill everything of a rehearsal campaign again and again, and compare with one left in peace."""
