"""Panels for the lessons: thin, over plain functions that run without them. How to build one: panel.py."""
