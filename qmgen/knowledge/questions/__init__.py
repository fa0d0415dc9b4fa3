"""Questions with answers from any knowledge graph (SynthKGQA), and how well they are answered."""
