"""Writes rows to train on, answered by a model: `jaxsft answer`."""

from jaxsft.cli.programs import answer

if __name__ == "__main__":
    answer.start()
