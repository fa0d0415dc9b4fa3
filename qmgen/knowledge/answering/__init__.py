"""Questions in words answered from a knowledge graph, with what proves each answer (UltRAG)."""
