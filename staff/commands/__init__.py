"""Commands for instructors and maintainers; ``helpers/__main__.py`` adds them where this folder is."""

from staff.commands import benchmarks, grading, sweep, training  # noqa: F401  (each registers its own)
