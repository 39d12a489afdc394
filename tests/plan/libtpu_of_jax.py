"""Prints the requirement of the libtpu that belongs to the installed jax."""

import importlib.metadata

if __name__ == "__main__":
    asked = importlib.metadata.requires("jax") or []
    print(next(one.partition(";")[0].strip() for one in asked if one.startswith("libtpu")))
