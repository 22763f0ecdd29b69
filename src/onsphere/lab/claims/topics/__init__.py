"""The claims by topic: one module each, with its studies."""
