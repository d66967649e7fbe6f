"""Simulation: the seams of ``swarmpy.runtime`` in virtual time, from one seed."""
