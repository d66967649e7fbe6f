"""The values of SwarmPy: identifiers, states, specs, objects and changes. Nothing here does I/O."""
