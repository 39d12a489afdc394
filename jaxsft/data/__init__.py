"""The way of the data: file row, conversation, text, ids and weights, cache, packed rows."""
