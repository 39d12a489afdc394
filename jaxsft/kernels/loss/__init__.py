"""Cross-entropy of a linear head, and the sums that it gives."""
