"""A training step worked out: its numbers, its equations with the numbers put in, its page."""
