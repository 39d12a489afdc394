"""The tokens of a run's data with their weights, as trained: `jaxsft inspect`."""

from jaxsft.cli.programs import inspect

if __name__ == "__main__":
    inspect.start()
