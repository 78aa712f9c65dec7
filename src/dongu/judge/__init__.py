"""Judging answers: metrics, intervals, paired differences, calibration, and the words for them."""
