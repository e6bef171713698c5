"""The potential: layers, readout, presets, bundle."""
