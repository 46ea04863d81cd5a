"""Recorded inputs and outputs of the original implementations, replayed on ours."""
