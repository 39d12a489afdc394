"""Losses and scored answers of any model: `jaxsft eval`."""

from jaxsft.cli.programs import eval

if __name__ == "__main__":
    eval.start()
