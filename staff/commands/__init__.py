"""Commands for instructors and maintainers; ``helpers/__main__.py`` adds them where this folder is."""

COMMANDS = {  # name: (its module, its line in the list)
    "release": ("staff.commands.grading", "Write the student repository."),
    "check": ("staff.commands.grading", "Run the visible checks of a notebook of the authored course."),
    "grade": ("staff.commands.grading", "Grade submissions in a sandbox."),
    "sweep": ("staff.commands.sweep", "Do every combination of a table of settings."),
    "train": ("staff.commands.training", "Train the bundled networks again, or on your own photos."),
    "bench": ("staff.commands.benchmarks", "Measure, and write what README and model cards quote."),
}
