"""A model fine-tuned, from a config to an export: `python -m jaxsft.train`, `jaxsft train`."""

from jaxsft.terminal import signals

if __name__ == "__main__":
    signals.end_at_once()
    from jaxsft.cli.programs import train

    train.start()
