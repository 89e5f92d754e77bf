"""Self-checks of the exercises; messages tell shape, type, range or direction, never the answer."""
