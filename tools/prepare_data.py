"""Prepared data and what there is to know of them, ahead of a run: `jaxsft prepare`."""

from jaxsft.cli.programs import prepare

if __name__ == "__main__":
    prepare.start()
