"""Machines: devices, hosts, the terminal, and the life of a process."""
