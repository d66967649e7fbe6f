"""Registries: images fetched and given away by the distribution protocol, with nothing but HTTP."""
