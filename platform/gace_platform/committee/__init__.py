"""Committees: several models trained apart, whose disagreement becomes an error bar."""
