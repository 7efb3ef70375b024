"""Measurements of the real parts on the machine at hand; each prints a Markdown table."""
