"""A model fine-tuned, from a config to an export: `python -m jaxsft.train`, `jaxsft train`."""

from jaxsft.cli.programs import train

if __name__ == "__main__":
    train.start()
