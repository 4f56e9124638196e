"""One module for each framework; each needs the extra of its own, and only the public API."""
