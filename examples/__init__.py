"""Examples, each a script or a package of its own; ``command_line`` and ``runs`` are what they share."""
