"""Parsers: exit status, summary and files of a command become nodes or an exit code."""
