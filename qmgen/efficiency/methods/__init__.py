"""Ways to train: sparse weights that move, local losses, random bases, small batches."""
