"""qmgen."""
