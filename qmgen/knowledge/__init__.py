"""Knowledge graphs over molecules: built from a store, completed, analysed and questioned."""
