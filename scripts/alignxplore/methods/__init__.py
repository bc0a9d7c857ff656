"""Methods: one module per way to obtain a preference description; VPL judges without one."""
