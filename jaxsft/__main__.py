"""`python -m jaxsft NAME ...`, where the command `jaxsft` is not on the path."""

from jaxsft.cli.programs import by_name

if __name__ == "__main__":
    by_name.start()
