"""The folder that the drill puts into PYTHONPATH; it holds nothing to import by name."""
