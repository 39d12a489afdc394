"""The products of a mixture of experts."""
