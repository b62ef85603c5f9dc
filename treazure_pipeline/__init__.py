"""Keeps the points in Voyado Engage equal to the points in Treazure."""

__version__ = "0.1.0"
