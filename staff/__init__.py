"""For instructors and maintainers: grading, benchmarks, training, sweeps. A student release has none of it."""
