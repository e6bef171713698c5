"""The sub-commands of ``gace`` that this floor brings; each module has an attribute ``command``."""
