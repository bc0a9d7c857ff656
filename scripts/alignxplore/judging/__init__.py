"""Judges and rewards: how well a preference description steers a model."""
