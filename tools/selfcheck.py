"""The laws of training, measured on this hardware: `jaxsft selfcheck`."""

from jaxsft.cli.programs import selfcheck

if __name__ == "__main__":
    selfcheck.start()
