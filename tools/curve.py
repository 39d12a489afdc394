"""Says whether more data would help, or better data: `jaxsft curve`."""

from jaxsft.cli.programs import curve

if __name__ == "__main__":
    curve.start()
