"""Models with one known mistake each, and healthy ones: what the health checks must name, and what they must not."""
