"""Methods: one module for each way to get a preference description (VPL judges without one)."""
