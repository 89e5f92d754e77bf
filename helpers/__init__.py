"""Thin modules behind the notebooks: images, generators, features, losses and inversion. Bad input is a ValueError."""
