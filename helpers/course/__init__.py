"""The course inside the notebooks: visible checks, the lessons as data, and the self-check."""
