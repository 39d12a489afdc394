"""A trained model as files for others: complete, or not there at all."""
