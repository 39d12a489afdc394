"""Kinds of attention, each with its cache, its operations and the results that remat may keep."""
