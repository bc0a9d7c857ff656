"""Preflight: whether a configuration will run on this machine, tried at its real sizes before it is paid for."""
