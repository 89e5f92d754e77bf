"""Grading: hidden probes, hand-ins, gradebook, and the student release."""
