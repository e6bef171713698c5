"""The frozen exam: what a potential must show before it may become champion."""
