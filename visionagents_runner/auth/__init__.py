"""Who asks, and how that is known."""
