"""Several runs on one page: `jaxsft compare_runs`."""

from jaxsft.cli.programs import compare_runs

if __name__ == "__main__":
    compare_runs.start()
