"""Logical queries over a knowledge graph and what executes them: exactly, or by prediction."""
